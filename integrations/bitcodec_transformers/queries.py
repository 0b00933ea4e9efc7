"""Hidden states of a few new sentences, for searching."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from bitcodec.errors import ValueRangeError
from bitcodec_transformers.documents import iterate_documents
from bitcodec_transformers.forward import candidate_states, check_layers, find_blocks
from bitcodec_transformers.manifest import HarvestSettings, MassivePolicy
from bitcodec_transformers.models import LanguageModel
from bitcodec_transformers.rows import HarvestRows, MemoryRows
from bitcodec_transformers.selection import check_finite, median_norms, select_rows
from bitcodec_transformers.windows import WindowCutter, candidate_rows


class TokenStates(NamedTuple):
    """Hidden states and where they come from."""

    hidden: np.ndarray
    """(n, d) float32."""
    rows: HarvestRows
    """n rows."""


def hidden_of(
    texts: Iterable[Any],
    *,
    model: LanguageModel,
    layer: int,
    context_length: int = 256,
    drop_first: int = 1,
    massive: float = 10.0,
    massive_policy: MassivePolicy = "drop",
    median_norm: float | None = None,
    batch_tokens: int = 2048,
) -> TokenStates:
    """Compute the hidden states of a few texts, chosen as `harvest` chooses rows.

    Args:
        texts: as for `harvest`.
        model: the language model.
        layer: the wanted block, from 0.
        context_length: tokens per window, special tokens included.
        drop_first: tokens at window positions below this are dropped.
        massive: a row is massive when its norm exceeds this many times the median.
        massive_policy: `"drop"`, `"refuse"` or `"keep"` massive rows.
        median_norm: the layer's median norm, best taken from the harvest that is searched;
            by default that of these texts.
        batch_tokens: tokens the model reads at once, padding included.

    Returns:
        The states in the order of the texts, and their origins.

    Raises:
        ConfigError: a setting is out of range, or the layer beyond the model.
        ValueRangeError: no token is left, a state is not finite, or a row is massive under
            `"refuse"`.
    """
    settings = HarvestSettings(
        layers=(layer,),
        context_length=context_length,
        drop_first=drop_first,
        massive=massive,
        massive_policy=massive_policy,
        dtype="float32",
        batch_tokens=batch_tokens,
    )
    check_layers(settings.layers, n_layers=len(find_blocks(model.model)))
    model.check_context(context_length)
    documents = list(iterate_documents(texts))
    cutter = WindowCutter(model.tokenizer, context_length=context_length, drop_first=drop_first)
    windows = [window for k, text in enumerate(documents) for window in cutter.cut(k, text.text)]
    rows = candidate_rows(windows)
    if len(rows) == 0:
        raise ValueRangeError(
            f"the texts must hold tokens to keep, got none in {len(documents)} texts: give "
            "longer texts or drop_first=0"
        )
    states = candidate_states(
        model, windows, layers=[layer], dtype=torch.float32, batch_tokens=batch_tokens
    )
    medians = median_norms(states.norms) if median_norm is None else {layer: median_norm}
    kept, _ = select_rows(states.norms, medians, rows, massive=massive, policy=massive_policy)
    states, rows = states.take(kept), rows.take(kept)
    check_finite(states.hidden, states.norms, rows)
    return TokenStates(states.hidden[layer].numpy(), MemoryRows(rows, documents))
