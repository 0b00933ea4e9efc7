"""What a language model thinks of a codec: decoded states put back into the running model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from bitcodec.errors import ShapeError, ValueRangeError
from bitcodec_transformers.causal import OpenBlock, TokenProgress
from bitcodec_transformers.forward import PaddedBatch
from bitcodec_transformers.manifest import HarvestSettings
from bitcodec_transformers.models import LanguageModel
from bitcodec_transformers.outcomes import SpliceReport, WindowSums, compare, report

Replacement = Callable[[np.ndarray], np.ndarray]
"""Maps (n, d) float32 hidden states, n at least 1, to (n, d) approximations."""


class HiddenCodec(Protocol):
    """What `through` needs of a codec."""

    def encode(self, hidden: Any) -> np.ndarray:
        """Encode (n, d) float32 hidden states."""

    def decode(self, packed: np.ndarray) -> np.ndarray:
        """Decode to (n, d) floats."""


@dataclass(frozen=True, eq=False)
class CodecReplacement:
    """There and back through a codec; see `through`."""

    codec: HiddenCodec
    """The fitted codec."""
    options: Mapping[str, Any]
    """Keyword arguments of its `encode`."""

    @property
    def n_dims(self) -> int | None:
        """The width the codec was fitted on, None where it does not tell."""
        return getattr(self.codec, "n_dims_", None)

    def __call__(self, hidden: np.ndarray) -> np.ndarray:
        """Encode and decode (n, d) float32."""
        return self.codec.decode(self.codec.encode(hidden, **self.options))


def through(codec: HiddenCodec, *, refine: str | int | None = None) -> CodecReplacement:
    """Make a replacement of a fitted codec.

    Args:
        codec: a `BitCodec`, or any object with `encode` and `decode`.
        refine: how long `encode` searches; None leaves it to the codec, and is the only choice
            for a codec whose `encode` has no such argument.

    Returns:
        A callable that maps hidden states to decode(encode(hidden)).
    """
    return CodecReplacement(codec, {} if refine is None else {"refine": refine})


def splice(
    documents: Iterable[Any],
    *,
    model: LanguageModel,
    layer: int,
    replace: Mapping[str, Replacement],
    context_length: int = 256,
    drop_first: int = 1,
    massive: float = 10.0,
    median_norm: float | None = None,
    batch_tokens: int = 2048,
    max_tokens: int | None = None,
    progress: Callable[[TokenProgress], None] | None = None,
) -> SpliceReport:
    """Put approximations in place of a layer's states and measure the model's next-token loss.

    The model reads every window once as it is, once with zeros in place of the rows, and once
    for each replacement. The rows are those a harvest would keep: positions below `drop_first`,
    special tokens and massive rows stay as they are in all runs. Layer i is the output of block
    i, for the last block before the final norm. A replaced row goes through float32 and back to
    the model's dtype. Every token of a window but its first is predicted and counts, so that
    of windows of t tokens t - 1 are scored; those are the tokens "per token" refers to.

    Memory holds the logits of two runs of a batch in the model's dtype; they become float32 in
    chunks.

    Args:
        documents: as for `harvest`; best texts on which nothing was fitted.
        model: a causal language model with its head.
        layer: the block, from 0.
        replace: what to compare, by name; each gets (n, d) float32 rows of its own and returns
            as many, and should treat each row alone, because rows come in batches.
        context_length: tokens per window, special tokens included.
        drop_first: rows at window positions below this are not replaced.
        massive: a row is massive when its norm exceeds this many times the median.
        median_norm: the layer's median norm, best that of the harvest a codec was fitted on; by
            default that of the candidate rows among the first 65,536 or so.
        batch_tokens: tokens the model reads at once, padding included.
        max_tokens: stop after so many predicted tokens; the last window is cut short.
        progress: called after every batch.

    Returns:
        Losses of the original, of zeros and of each replacement.

    Raises:
        ConfigError: a setting is out of range, the layer is beyond the model, or the model has no
            language-model head or is in training mode.
        ShapeError: a codec is of another width, or a replacement returns another shape.
        ValueRangeError: there is nothing to score or to replace, or a replacement or the model
            gives NaN or infinity.
    """
    settings = HarvestSettings(
        layers=(layer,),
        context_length=context_length,
        drop_first=drop_first,
        massive=massive,
        batch_tokens=batch_tokens,
    )
    block = OpenBlock(model, settings, median_norm=median_norm)
    _check_widths(replace, model=model)
    measured = _Measured(block, replace)
    for batch in block.batches(documents, max_tokens=max_tokens, progress=progress):
        measured.add(batch)
    return measured.report()


class _Measured:
    """The runs of one call, batch by batch."""

    def __init__(self, block: OpenBlock, replace: Mapping[str, Replacement]) -> None:
        self._block = block
        self._replace = dict(replace)
        self._zeros: list[WindowSums] = []
        self._sums: dict[str, list[WindowSums]] = {name: [] for name in replace}
        self._n_replaced = self._n_massive = 0

    def add(self, batch: PaddedBatch) -> None:
        original, states = _observed(self._block, batch)
        free = self._block.free_rows(states, batch)
        n_free = int(free.sum())
        self._n_replaced += n_free
        self._n_massive += int(batch.candidate.sum()) - n_free
        rows = states[free]
        zeros = _spliced(self._block, batch, free, torch.zeros_like(rows))
        self._zeros.append(compare(zeros, original, batch))
        for name, replacement in self._replace.items():
            # Not in inference mode: a codec may keep tensors that it will train on later.
            new = _replaced(name, replacement, rows) if n_free else rows
            spliced = _spliced(self._block, batch, free, new)
            self._sums[name].append(compare(spliced, original, batch))

    def report(self) -> SpliceReport:
        return report(
            {name: WindowSums.join(parts) for name, parts in self._sums.items()},
            WindowSums.join(self._zeros),
            layer=self._block.layer,
            n_replaced=self._n_replaced,
            n_massive=self._n_massive,
            median_norm=self._block.median_norm,
        )


def _observed(block: OpenBlock, batch: PaddedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model as it is; give its logits and what the block put out."""
    seen: list[torch.Tensor] = []

    def keep(states: torch.Tensor) -> torch.Tensor:
        seen.append(states.clone())  # the next block may write into its input
        return states

    with torch.inference_mode():
        logits = block.logits(batch, keep)
    return logits, seen[0]


def _spliced(
    block: OpenBlock, batch: PaddedBatch, free: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    def put(states: torch.Tensor) -> torch.Tensor:
        changed = states.clone()
        changed[free] = rows
        return changed

    with torch.inference_mode():
        return block.logits(batch, put)


def _replaced(name: str, replacement: Replacement, rows: torch.Tensor) -> torch.Tensor:
    """Call a replacement and check what it returns; give it in the dtype of `rows`."""
    given = rows.float().cpu().numpy().copy()
    returned = np.asarray(replacement(given))
    if returned.shape != tuple(rows.shape):
        raise ShapeError(
            f"replacement {name!r} must return {tuple(rows.shape)}, the shape it was given, got "
            f"{returned.shape}"
        )
    new = torch.tensor(returned.astype(np.float32, copy=False)).to(rows)
    finite = torch.isfinite(new).all(dim=1)
    if not finite.all():
        raise ValueRangeError(
            f"replacement {name!r} must return numbers that are finite in the model's "
            f"{str(rows.dtype).removeprefix('torch.')}, got NaN or infinity in "
            f"{int((~finite).sum())} of {len(new)} rows"
        )
    return new


def _check_widths(replace: Mapping[str, Replacement], *, model: LanguageModel) -> None:
    for name, replacement in replace.items():
        width = getattr(replacement, "n_dims", None)
        if width is not None and width != model.n_dims:
            raise ShapeError(
                f"replacement {name!r} must be of a codec of {model.n_dims} dimensions, got one "
                f"fitted on {width}: {model.name!r} is another model than the codec's"
            )
