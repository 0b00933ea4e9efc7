"""What a manifest says about the model and the libraries."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from bitcodec_transformers.models import LanguageModel


def model_identity(model: LanguageModel) -> dict[str, Any]:
    """Describe a model for the manifest.

    Args:
        model: the language model.

    Returns:
        Name, origin, size and a digest that tells it from others; JSON types.
    """
    return {
        "name": model.name,
        "provenance": model.provenance,
        "class": type(model.model).__name__,
        "n_layers": model.n_layers,
        "n_dims": model.n_dims,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "digest": _digest(model),
    }


def _digest(model: LanguageModel) -> str:
    """Hash the vocabulary and some values of every weight: tells models apart, proves nothing."""
    digest = hashlib.sha256()
    vocabulary = sorted(model.tokenizer.get_vocab().items())
    digest.update(json.dumps(vocabulary).encode())
    for name, weight in model.model.named_parameters():
        values = weight.detach().flatten()
        sample = values[:: max(1, len(values) // 64)][:64]
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()
