"""Codecs whose error counts what the model is sensitive to, beside the same without it.

To second order the model's loss rises by e^T F e / 2 for an error e of a layer's states, F the
layer's Fisher matrix. A codec fitted on z T, z the standardised states and T^2 a mixture of the
identity and of F in these coordinates, weighs its errors so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.hidden_states import MODEL, TEXTS
from benchmarks.passages import read_excerpts
from benchmarks.quantisers import Encoded, Fit, Fitted, Standardisation
from benchmarks.rate_distortion_codecs import Codecs, fit_sparse
from bitcodec import BitCodec
from bitcodec.files import atomic_path
from bitcodec.range_coding import compress, decompress
from bitcodec_transformers import load_model, sensitivity

PRICE, N_STEPS = 0.4, 1000
"""Entropy weight and minibatches of both codecs."""
SHARES = (0.5,)
"""Of the Fisher matrix in the mixture."""
FISHER_TOKENS = 20_000
"""Tokens of the fitted files from which the Fisher matrix is taken."""


def sensitive_codecs(layer: int, packages: Path, folder: Path) -> dict[str, Fit]:
    """Return the methods: a plain codec, and one for each share.

    Args:
        layer: of the hidden states.
        packages: text that the Fisher matrix is taken on.
        folder: where codecs and the matrix are kept.
    """
    kept = Codecs(folder / f"layer-{layer}")
    plain = partial(fit_sparse, kept, N_STEPS, PRICE, "context", "fast")
    fisher = partial(fisher_of, layer, packages, folder)
    weighted = {
        f"bitcodec {PRICE}, sensitive {share}": partial(fit_sensitive, kept, fisher, share)
        for share in SHARES
    }
    return {f"bitcodec {PRICE}, plain": plain, **weighted}


def fisher_of(layer: int, packages: Path, folder: Path) -> np.ndarray:
    """Return the Fisher matrix of a layer on the fitted files, (d, d) float64."""
    place = folder / f"fisher-{layer}.npy"
    if not place.is_file():
        texts = read_excerpts(packages, TEXTS)[0]
        matrix = sensitivity(texts, model=load_model(MODEL), layer=layer, max_tokens=FISHER_TOKENS)
        with atomic_path(place) as temporary, temporary.open("wb") as file:
            np.save(file, matrix)
    loaded: np.ndarray = np.load(place)
    return loaded


def fit_sensitive(
    kept: Codecs, fisher: Callable[[], np.ndarray], share: float, train: np.ndarray
) -> Fitted:
    """Fit the preset "archive" in coordinates in which errors weigh as the model feels them."""
    standard = Standardisation.of(train)
    there, back = metric_root(fisher(), standard.scale, share=share)
    name = f"sensitive-{share}-{PRICE}-{N_STEPS}"
    rows = standard.apply(train) @ there
    codec, seconds = kept.codec(name, make_codec, rows)
    table, spent = kept.table(name, codec, rows)

    def encode(hidden: np.ndarray) -> Encoded:
        packed = codec.encode(standard.apply(hidden) @ there)
        data = compress(packed, table, embed_table=False)
        return Encoded(data, len(data) / len(hidden))

    return Fitted(
        encode,
        lambda encoded: standard.undo(codec.decode(decompress(encoded.codes, table=table)) @ back),
        shared_bytes=kept.shared_bytes(name)
        + len(table.to_bytes())
        + there.nbytes
        + 2 * standard.mean.nbytes,
        fit_seconds=(seconds[0] + spent[0], seconds[1] + spent[1]),
        limits="seconds leave out those of the Fisher matrix",
    )


def make_codec() -> BitCodec:
    """Return an unfitted codec whose error is the squared one of its coordinates."""
    return BitCodec.preset("archive", entropy_weight=PRICE, n_steps=N_STEPS, scaling="global")


def metric_root(
    fisher: np.ndarray, scale: np.ndarray, *, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return T and its inverse, (d, d) float32, for standardised rows z to become z T.

    Args:
        fisher: (d, d) of the states as they are.
        scale: (d,) standard deviations of the states.
        share: of the Fisher matrix in T^2; the rest is the identity of the same trace.
    """
    inner = fisher * scale[:, None] * scale
    n_dims = len(scale)
    metric = (1 - share) * np.eye(n_dims) + share * inner * n_dims / np.trace(inner)
    values, vectors = np.linalg.eigh(metric)
    roots = np.sqrt(values)
    there, back = (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
    return there.astype(np.float32), back.astype(np.float32)
