"""A causal language model opened at one block: its batches, its free rows, its logits."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bitcodec.errors import ConfigError, ValueRangeError
from bitcodec_transformers.documents import iterate_documents
from bitcodec_transformers.forward import (
    PaddedBatch,
    batches_by_length,
    candidate_states,
    check_evaluating,
    check_layers,
    find_blocks,
    forward_inputs,
    pad,
)
from bitcodec_transformers.manifest import HarvestSettings
from bitcodec_transformers.models import LanguageModel
from bitcodec_transformers.selection import median_norms
from bitcodec_transformers.windows import UnitReader, Window, WindowCutter

UNIT_TOKENS = 65_536
"""About how many candidate tokens are gathered at once; the median norm is that of the first."""

Edit = Callable[[torch.Tensor], torch.Tensor]
"""Maps a block's output (b, t, d) to what the next block is to read."""


@dataclass(frozen=True)
class TokenProgress:
    """How far a pass over documents is."""

    n_tokens: int
    """Next tokens predicted so far."""
    seconds: float
    """Time since the call began."""


class OpenBlock:
    """A block of a causal language model whose output can be read and changed.

    Args:
        model: the language model.
        settings: how documents are cut and rows chosen, as for a harvest; its one layer is the
            block.
        median_norm: the layer's median norm; None takes it from the first documents.

    Raises:
        ConfigError: the model has no language-model head, is in training mode or cannot read
            such windows, the layer is beyond it, or the median is no positive number.
    """

    def __init__(
        self, model: LanguageModel, settings: HarvestSettings, *, median_norm: float | None
    ) -> None:
        check_causal(model)
        check_evaluating(model)
        if median_norm is not None and not median_norm > 0:
            raise ConfigError(f"median_norm must be above 0, got {median_norm}")
        blocks = find_blocks(model.model)
        check_layers(settings.layers, n_layers=len(blocks))
        model.check_context(settings.context_length)
        (self.layer,) = settings.layers
        self.median_norm = math.nan if median_norm is None else median_norm
        self._block = blocks[self.layer]
        self._model = model
        self._settings = settings

    def batches(
        self,
        documents: Iterable[Any],
        *,
        max_tokens: int | None,
        progress: Callable[[TokenProgress], None] | None,
    ) -> Iterator[PaddedBatch]:
        """Read documents as windows of like length, those without candidate tokens left out.

        Args:
            documents: as for `harvest`; read lazily.
            max_tokens: stop after so many next tokens; the last window is cut short.
            progress: called when the work on a batch is done.

        Yields:
            At least one batch.

        Raises:
            ConfigError: `max_tokens` is below 1.
            ValueRangeError: no window has a candidate and a next token.
        """
        begun, n_tokens = time.perf_counter(), 0
        for windows in self._units(documents, max_tokens=max_tokens):
            if math.isnan(self.median_norm):
                self.median_norm = self._median_norm(windows)
            for members in batches_by_length(windows, batch_tokens=self._settings.batch_tokens):
                yield pad([windows[k] for k in members], model=self._model)
                n_tokens += sum(len(windows[k]) - 1 for k in members)
                if progress is not None:
                    progress(TokenProgress(n_tokens, time.perf_counter() - begun))
        if n_tokens == 0:
            raise ValueRangeError(
                "the documents must hold windows of at least two tokens, one of them to be "
                "replaced, got none: give longer texts or drop_first=0"
            )

    def free_rows(self, states: torch.Tensor, batch: PaddedBatch) -> torch.Tensor:
        """Mark the rows that may change: candidates that are not massive.

        Args:
            states: (b, t, d), the block's output; `median_norm` must be known.
            batch: what the model read.

        Returns:
            (b, t) bool on the device of `states`.

        Raises:
            ValueRangeError: a candidate's state holds NaN.
        """
        norms = torch.linalg.vector_norm(states.detach().float(), dim=2)
        massive = norms > self._settings.massive * self.median_norm
        free: torch.Tensor = batch.candidate.to(states.device) & ~massive
        if not torch.isfinite(norms[free]).all():
            raise ValueRangeError(
                f"layer {self.layer}: the model itself gave NaN or infinity: load it with "
                "dtype='bfloat16' or 'float32'"
            )
        return free

    def logits(self, batch: PaddedBatch, edit: Edit) -> torch.Tensor:
        """Run the model with an edited output of the block.

        Args:
            batch: what the model reads.
            edit: given the block's output; what it returns takes its place.

        Returns:
            (b, t, vocabulary), in the model's dtype; with a gradient where the caller wants one.
        """
        network = self._model.model
        inputs = forward_inputs(network, token_ids=batch.token_ids, mask=batch.mask)
        with edited(self._block, edit):
            logits: torch.Tensor = network(**inputs).logits
        return logits

    def _units(self, documents: Iterable[Any], *, max_tokens: int | None) -> Iterator[list[Window]]:
        if max_tokens is not None and max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {max_tokens}")
        settings = self._settings
        cutter = WindowCutter(
            self._model.tokenizer,
            context_length=settings.context_length,
            drop_first=settings.drop_first,
        )
        reader = UnitReader(iterate_documents(documents), cutter)
        n_left = sys.maxsize if max_tokens is None else max_tokens
        while n_left > 0:
            unit = reader.next_unit(min(UNIT_TOKENS, n_left))
            if not unit.windows:
                return
            windows = _cut_short(unit.windows, n_tokens=n_left)
            n_left -= sum(len(window) - 1 for window in windows)
            if windows:
                yield windows

    def _median_norm(self, windows: Sequence[Window]) -> float:
        states = candidate_states(
            self._model,
            windows,
            layers=[self.layer],
            dtype=torch.bfloat16,  # only the norms are used, which are taken before
            batch_tokens=self._settings.batch_tokens,
        )
        return median_norms(states.norms)[self.layer] if len(states.norms[self.layer]) else math.nan


def check_causal(model: LanguageModel) -> None:
    """Refuse a model that does not predict the next token.

    Raises:
        ConfigError: it is an encoder, or was loaded without its head.
    """
    network = model.model
    can_generate = getattr(network, "can_generate", lambda: False)
    if not can_generate() or network.get_output_embeddings() is None:
        raise ConfigError(
            f"the model must be a causal language model with its head, got {model.name!r} "
            f"({type(network).__name__}), which predicts no next token: load one whose class "
            "ends in ForCausalLM"
        )


@contextlib.contextmanager
def edited(block: nn.Module, edit: Edit) -> Iterator[None]:
    """Let a function change a block's output while the context lasts.

    Args:
        block: a module that puts out states, or a tuple that begins with them.
        edit: given the states (b, t, d); what it returns takes their place.

    Yields:
        Nothing.
    """

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _cut_short(windows: Sequence[Window], *, n_tokens: int) -> list[Window]:
    """Take windows in which a row may change, until they predict so many tokens exactly."""
    taken: list[Window] = []
    for window in windows:
        if n_tokens <= 0:
            break
        head = window.head(n_tokens + 1)
        if len(head) > 1 and head.candidate.any():
            taken.append(head)
            n_tokens -= len(head) - 1
    return taken
