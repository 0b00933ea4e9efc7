"""Codecs whose errors count what the model minds, for the splicing benchmark."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.hidden_states import MODEL, TEXTS
from benchmarks.passages import read_excerpts
from benchmarks.quantisers import Fit
from benchmarks.rate_distortion_codecs import PRICES, Codecs, fit_sparse
from bitcodec.files import atomic_path
from bitcodec_transformers import load_model, sensitivity

N_STEPS = 1000
"""Minibatches of their fits."""
SHARE = 0.5
"""Of the Fisher matrix in an error. At price .4, .8 recovers as much at equal bits, .95 less."""
FISHER_TOKENS = 20_000
"""Tokens of the fitted files from which the Fisher matrix is taken."""


def sensitive_codecs(layer: int, packages: Path, folder: Path) -> dict[str, Fit]:
    """Return the methods, one for each price, and the first with the squared error alone.

    Args:
        layer: of the hidden states.
        packages: text that the Fisher matrix is taken on.
        folder: where codecs and the matrix are kept.
    """
    kept = Codecs(folder / f"layer-{layer}")
    weighed = {
        f"bitcodec {price}, minded": partial(
            fit_sparse,
            kept,
            N_STEPS,
            price,
            "searched context",
            "fast",
            sensitivity=fisher_of(layer, packages, folder),
            share=SHARE,
        )
        for price in PRICES
    }
    plain = partial(fit_sparse, kept, N_STEPS, PRICES[0], "searched context", "fast")
    return {f"bitcodec {PRICES[0]}, {N_STEPS} steps": plain, **weighed}


def fisher_of(layer: int, packages: Path, folder: Path) -> Callable[[], np.ndarray]:
    """Return what gives the Fisher matrix of a layer on the fitted files, (d, d) float64."""
    place = folder / f"fisher-{layer}.npy"

    def measured() -> np.ndarray:
        if not place.is_file():
            texts, model = read_excerpts(packages, TEXTS)[0], load_model(MODEL)
            matrix = sensitivity(texts, model=model, layer=layer, max_tokens=FISHER_TOKENS)
            with atomic_path(place) as temporary, temporary.open("wb") as file:
                np.save(file, matrix)
        loaded: np.ndarray = np.load(place)
        return loaded

    return measured
