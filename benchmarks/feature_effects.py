"""What holding one feature on or off at a layer does to a model's next token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bitcodec import BitCodec
from bitcodec_transformers import LanguageModel, feature_directions, logit_lens, switched

CONTEXT = 64
"""Tokens read of each text."""
N_TOKENS = 8
"""Tokens named at either end."""
N_CONTEXTS, SHOWN_TOKENS, N_LIKELY = 3, 20, 3
"""Contexts that are shown, their last tokens, and the next tokens named before and after."""


def feature_effects(
    model: LanguageModel,
    codec: BitCodec,
    texts: Sequence[str],
    *,
    layer: int,
    feature: int,
    median_norm: float,
) -> dict[str, Any]:
    """Run texts with a feature held on and held off and compare the next token's probabilities.

    Returns:
        For "on" and "off" the share of states changed, KL(original || changed) in nats a token,
        the tokens whose mean probability rose and fell most, and the contexts that changed most.
        Beside them the tokens that the decoder row promotes through the unembedding; how many of
        those rose most (of "off", fell most); and the mean change of their ln p, less that of all
        tokens.
    """
    lens = logit_lens(model, feature_directions(codec, [feature]), k=N_TOKENS)
    promoted = lens.promoted[0].tolist()
    ids = [model.tokenizer(text, return_tensors="pt").input_ids[:, :CONTEXT] for text in texts]
    plain = [log_probabilities(model, row) for row in ids]
    effects: dict[str, Any] = {
        "feature": feature,
        "activity": float(codec.statistics_.activity[feature]),
        "promoted_by_decoder_row": named(model, promoted),
        "suppressed_by_decoder_row": named(model, lens.suppressed[0].tolist()),
    }
    for name, on in (("on", True), ("off", False)):
        with switched(
            model, codec, layer=layer, features={feature: on}, median_norm=median_norm
        ) as counts:
            changed = [log_probabilities(model, row) for row in ids]
        change = compared(plain, changed)
        rose = change.probability.topk(N_TOKENS)
        fell = (-change.probability).topk(N_TOKENS)
        ends = (rose if on else fell).indices.tolist()
        effects[name] = {
            "changed_share": counts.n_changed / (counts.n_rows - counts.n_massive),
            "kl": change.kl,
            "rose": named(model, rose.indices.tolist()),
            "rose_by": rose.values.tolist(),
            "fell": named(model, fell.indices.tolist()),
            "fell_by": (-fell.values).tolist(),
            "promoted_found": len(set(ends) & set(promoted)),
            "promoted_shift": float(change.logarithm[promoted].mean() - change.logarithm.mean()),
            "contexts": list(changed_contexts(model, ids, plain, changed)),
        }
    return effects


def log_probabilities(model: LanguageModel, token_ids: torch.Tensor) -> torch.Tensor:
    """Return (t - 1, v) float32, ln p of the token after each but the first."""
    with torch.inference_mode():
        logits = model.model(token_ids.to(model.model.device)).logits[0, 1:]
    found: torch.Tensor = logits.float().log_softmax(dim=1).cpu()
    return found


@dataclass(frozen=True, eq=False)
class Change:
    """What became of the next token's probabilities, the mean over all places."""

    probability: torch.Tensor
    """(v,) change of each token's probability."""
    logarithm: torch.Tensor
    """(v,) change of its ln."""
    kl: float
    """KL(plain || changed) in nats."""


def compared(plain: Sequence[torch.Tensor], changed: Sequence[torch.Tensor]) -> Change:
    """Compare the ln p (t, v) of the same texts, read before and after a change."""
    n_rows = sum(len(rows) for rows in plain)
    pairs = list(zip(plain, changed, strict=True))
    moved = sum((after.exp() - before.exp()).sum(dim=0) for before, after in pairs)
    shift = sum((after - before).sum(dim=0) for before, after in pairs)
    kl = sum(float((before.exp() * (before - after)).sum()) for before, after in pairs)
    return Change(torch.as_tensor(moved) / n_rows, torch.as_tensor(shift) / n_rows, kl / n_rows)


def changed_contexts(
    model: LanguageModel,
    ids: Sequence[torch.Tensor],
    plain: Sequence[torch.Tensor],
    changed: Sequence[torch.Tensor],
) -> Iterator[dict[str, Any]]:
    """Yield the contexts where the next token's probabilities changed most, one of a text.

    Args:
        model: the model.
        ids: (1, t) tokens of each text.
        plain: (t - 1, v) float32 of each, as `log_probabilities` gives them, before the change.
        changed: after it.
    """
    moved = [
        (before.exp() * (before - after)).sum(dim=1)
        for before, after in zip(plain, changed, strict=True)
    ]
    most = sorted(range(len(ids)), key=lambda text: -float(moved[text].max()))[:N_CONTEXTS]
    for text in most:
        place = int(moved[text].argmax())
        read = ids[text][0, : place + 2]
        yield {
            "text": model.tokenizer.decode(read[-SHOWN_TOKENS:]),
            "kl": float(moved[text][place]),
            "before": likely(model, plain[text][place]),
            "after": likely(model, changed[text][place]),
        }


def likely(model: LanguageModel, log_probability: torch.Tensor) -> list[tuple[str, float]]:
    """Return the likeliest tokens and their probabilities, given (v,) ln p."""
    top = log_probability.topk(N_LIKELY)
    shares = [round(share, 4) for share in top.values.exp().tolist()]
    return list(zip(named(model, top.indices.tolist()), shares, strict=True))


def named(model: LanguageModel, tokens: Sequence[int]) -> list[str]:
    """Return tokens as text."""
    return [model.tokenizer.decode([token]) for token in tokens]
