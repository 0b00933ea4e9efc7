"""Run a model up to the last layer that is wanted and keep what its blocks put out."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from bitcodec.errors import ConfigError
from bitcodec_transformers.models import LanguageModel
from bitcodec_transformers.windows import Window


class _LastLayerReachedError(Exception):
    """Leaves the model's forward pass; never seen outside this module."""


@dataclass(frozen=True, eq=False)
class CandidateStates:
    """States of candidate tokens, in the order of the windows."""

    hidden: dict[int, torch.Tensor]
    """For each layer (n, d) on the CPU, of the dtype asked for."""
    norms: dict[int, np.ndarray]
    """For each layer (n,) float32, Euclidean norms before the conversion to that dtype."""

    def take(self, kept: np.ndarray) -> CandidateStates:
        """Select rows by ascending indices; nothing is copied when all are kept."""
        if all(len(kept) == len(norms) for norms in self.norms.values()):
            return self
        index = torch.from_numpy(kept)
        return CandidateStates(
            {layer: states[index] for layer, states in self.hidden.items()},
            {layer: norms[kept] for layer, norms in self.norms.items()},
        )


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Windows as one rectangle on the model's device, padded on the right."""

    token_ids: torch.Tensor
    """(b, t) int64."""
    mask: torch.Tensor
    """(b, t) int64, 1 for tokens and 0 for padding."""
    candidate: torch.Tensor
    """(b, t) bool, true for tokens whose states are wanted."""


def find_blocks(model: Any) -> nn.ModuleList:
    """Find the list of a transformer's blocks.

    It is the outermost `nn.ModuleList` with as many entries as the text config has hidden
    layers, looked for in the decoder first, because an image tower may have as many.

    Args:
        model: a transformers model.

    Returns:
        The list; entry i is block i.

    Raises:
        ConfigError: there is no such list, or more than one, or the model is an
            encoder-decoder, whose layers have no single numbering.
    """
    n_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if getattr(model.config, "is_encoder_decoder", False) or n_layers is None:
        raise ConfigError(
            f"{type(model).__name__} must have one stack of blocks (config.num_hidden_layers, "
            "no encoder-decoder): give its encoder or its decoder as the model"
        )
    found = _block_lists(_decoder(model), n_layers) or _block_lists(model, n_layers)
    if len(found) != 1:
        raise ConfigError(
            f"{type(model).__name__} must have one list of {n_layers} blocks, found "
            f"{len(found)} ({', '.join(found) or 'none'}): give the sub-model that has one"
        )
    return next(iter(found.values()))


def check_layers(layers: Sequence[int], *, n_layers: int) -> None:
    """Refuse layers that a model does not have.

    Raises:
        ConfigError: a layer is outside 0 .. n_layers - 1.
    """
    wrong = [layer for layer in layers if not 0 <= layer < n_layers]
    if wrong:
        raise ConfigError(
            f"layers must be between 0 and {n_layers - 1} (layer i is the output of block i), "
            f"got {wrong[0]}"
        )


def block_outputs(
    model: Any, *, layers: Sequence[int], token_ids: torch.Tensor, mask: torch.Tensor
) -> dict[int, torch.Tensor]:
    """Run a batch through the blocks up to the last wanted one.

    Layer i is what block i puts out: transformers' `hidden_states[i + 1]`, but for the last
    block, where decoders report `hidden_states` after their final norm and this gives the
    states before it.

    Args:
        model: a transformers model in evaluation mode.
        layers: the wanted blocks, from 0.
        token_ids: (b, t) int64, padded on the right.
        mask: (b, t) int64, 1 for tokens and 0 for padding.

    Returns:
        For each layer (b, t, d), of the model's dtype and on its device.

    Raises:
        ConfigError: a layer is out of range, or the blocks cannot be found.
    """
    blocks = find_blocks(model)
    check_layers(layers, n_layers=len(blocks))
    base = model.base_model
    inputs = forward_inputs(base, token_ids=token_ids, mask=mask)
    stopped = contextlib.suppress(_LastLayerReachedError)
    with torch.inference_mode(), _captured(blocks, layers) as outputs, stopped:
        base(**inputs)
    missing = sorted(set(layers) - set(outputs))
    if missing:
        raise ConfigError(f"{type(model).__name__} did not run its block {missing[0]}")
    return outputs


def forward_inputs(module: Any, *, token_ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
    """Give the keyword arguments with which a model reads a batch and keeps no cache.

    Args:
        module: a transformers model, with or without its head.
        token_ids: (b, t) int64, padded on the right.
        mask: (b, t) int64, 1 for tokens and 0 for padding.

    Returns:
        The arguments of `module.forward`.
    """
    inputs: dict[str, Any] = {"input_ids": token_ids, "attention_mask": mask}
    if "use_cache" in inspect.signature(module.forward).parameters:
        inputs["use_cache"] = False
    return inputs


def check_evaluating(model: LanguageModel) -> None:
    """Refuse a model in training mode, whose dropout is at work.

    Raises:
        ConfigError: it is in training mode.
    """
    if model.model.training:
        raise ConfigError("the model is in training mode, its states random: call model.eval()")


def candidate_states(
    model: LanguageModel,
    windows: Sequence[Window],
    *,
    layers: Sequence[int],
    dtype: torch.dtype,
    batch_tokens: int,
    on_batch: Callable[[Sequence[Window]], None] = lambda windows: None,
) -> CandidateStates:
    """Compute the states of all candidate tokens of some windows.

    Windows of like length run together; the result is in the order of `windows` again.

    Args:
        model: the language model.
        windows: what it reads.
        layers: the wanted blocks, from 0.
        dtype: the dtype of the result.
        batch_tokens: tokens per batch, padding included.
        on_batch: called with the windows of each batch when it is done.

    Returns:
        One row per candidate token.

    Raises:
        ConfigError: a layer is out of range, or the model is in training mode.
    """
    check_evaluating(model)
    n_rows = [int(window.candidate.sum()) for window in windows]
    first_rows = np.concatenate([[0], np.cumsum(n_rows)])
    hidden = {i: torch.empty((first_rows[-1], model.n_dims), dtype=dtype) for i in layers}
    norms = {i: np.empty(first_rows[-1], dtype=np.float32) for i in layers}
    for batch in batches_by_length(windows, batch_tokens=batch_tokens):
        members = [windows[k] for k in batch]
        outputs = _run(model, members, layers)
        places = np.concatenate([np.arange(first_rows[k], first_rows[k + 1]) for k in batch])
        for layer, states in outputs.items():
            hidden[layer][torch.from_numpy(places)] = states.to(dtype).cpu()
            norms[layer][places] = torch.linalg.vector_norm(states.float(), dim=1).cpu().numpy()
        on_batch(members)
    return CandidateStates(hidden, norms)


def batches_by_length(windows: Sequence[Window], *, batch_tokens: int) -> Iterator[list[int]]:
    """Group windows of like length, the longest first.

    Windows without candidate tokens are left out.

    Args:
        windows: the windows.
        batch_tokens: the most tokens in a batch, padding included; a longer window runs alone.

    Yields:
        Indices into `windows`.
    """
    wanted = [k for k, window in enumerate(windows) if window.candidate.any()]
    wanted.sort(key=lambda k: -len(windows[k]))
    while wanted:
        size = max(1, batch_tokens // len(windows[wanted[0]]))
        yield wanted[:size]
        wanted = wanted[size:]


def pad(windows: Sequence[Window], *, model: LanguageModel) -> PaddedBatch:
    """Lay windows side by side as the model reads them.

    Args:
        windows: one or more.
        model: whose padding and device are taken.

    Returns:
        A batch as long as the longest window.
    """
    length = max(len(window) for window in windows)
    token_ids = torch.full((len(windows), length), _padding_id(model.tokenizer))
    mask = torch.zeros((len(windows), length), dtype=torch.int64)
    candidate = torch.zeros((len(windows), length), dtype=torch.bool)
    for row, window in enumerate(windows):
        token_ids[row, : len(window)] = torch.from_numpy(window.token_ids)
        mask[row, : len(window)] = 1
        candidate[row, : len(window)] = torch.from_numpy(window.candidate)
    device = model.model.device
    return PaddedBatch(token_ids.to(device), mask.to(device), candidate.to(device))


def _run(
    model: LanguageModel, windows: Sequence[Window], layers: Sequence[int]
) -> dict[int, torch.Tensor]:
    batch = pad(windows, model=model)
    outputs = block_outputs(model.model, layers=layers, token_ids=batch.token_ids, mask=batch.mask)
    return {layer: states[batch.candidate.to(states.device)] for layer, states in outputs.items()}


def _padding_id(tokenizer: Any) -> int:
    identity = tokenizer.pad_token_id
    return 0 if identity is None else int(identity)


@contextlib.contextmanager
def _captured(blocks: nn.ModuleList, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    outputs: dict[int, torch.Tensor] = {}
    last = max(layers)

    def keep(layer: int, output: Any) -> None:
        outputs[layer] = output[0] if isinstance(output, tuple) else output
        if layer == last:
            raise _LastLayerReachedError

    with contextlib.ExitStack() as stack:
        for layer in set(layers):
            hook = blocks[layer].register_forward_hook(
                lambda _module, _inputs, output, layer=layer: keep(layer, output)
            )
            stack.callback(hook.remove)
        yield outputs


def _decoder(model: Any) -> Any:
    return model.get_decoder() if hasattr(model, "get_decoder") else model


def _block_lists(root: Any, n_layers: int) -> dict[str, nn.ModuleList]:
    """Find the lists of the wanted length that lie in no other such list."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in root.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) == n_layers and not inside:
            found[name] = module
    return found
