"""The quantisers of the rate-distortion benchmark, most of them FAISS's.

All but float16 are fitted on rows that are standardised per dimension; the statistics are those
of the training rows and count as shared bytes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import faiss
import numpy as np
import torch
from numcodecs import Zstd  # type: ignore[import-untyped]

from benchmarks.rivals import FLOAT_BYTES, QUERY_BITS, SCALAR_QUANTISERS, make_opq
from bitcodec.hidden_checks import NOISE

Result = TypeVar("Result")
BLOCK_ROWS = 1024
"""Rows of a compressed block, and rows that FAISS encodes at a time."""
ZSTD_LEVEL = 19
INT8_MAX = 127

PRODUCT_BYTES = (12, 24, 48, 96)
"""Sizes of product quantisers; d/16, d/8, d/4 and d/2 bytes come on top."""
ROTATED_BYTES = {"layer-15": (12, 24, 48, 96), "": (24, 48)}
"""Sizes of OPQ by data set, last those of all others: 96 learns for minutes."""
RESIDUAL_STAGES = {
    "layer-15": (13, 18, 25, 36, 50, 72, 100),
    "minilm": (13, 25, 50),
    "": (13, 25, 36, 50),
}
"""Stages, each a byte, of residual quantisers."""
RESIDUAL_ROWS = {"layer-15": 131_072, "": 65_536}
"""Training rows of residual quantisers; FAISS's k-means would see 65,536. At layer 15 and 6 stages
FVU was .538 with 65,536, .521 with 131,072 and .516 with all 216,000, which took 83 s of CPU."""
RESIDUAL_STEPS = 4
"""Steps of progressive k-means in a stage. At layer 15, 12 stages and 65,536 rows FVU was .459 with
4 and .453 with FAISS's 10, which took 1.7 times as long; .465 with 10 and a beam of 5."""
SEARCHED_STAGES = {"layer-15": (13, 25)}
"""Stages of local-search quantisers, which learn and encode slowest of all."""
SEARCHED_ROWS, SEARCHED_ROUNDS, SEARCHES = 65_536, 8, 4
"""Training rows of a local-search quantiser, rounds, of which FAISS does 25, and searches in each,
of FAISS's 8. At layer 15 and 13 stages FVU was .418; .449 with 4 rounds of 8 searches, as long;
.555 with 16,384 rows."""
SHRINKING_ROWS = 16_384
"""Training rows that the shrinking of an unbiased reconstruction is learned from."""


@dataclass(frozen=True)
class Encoded:
    """Rows as a method keeps them."""

    codes: Any
    """What the method decodes and searches."""
    bytes_per_vector: float
    """Bytes of a row, measured on these rows, all side data included."""


Search = Callable[[np.ndarray, Encoded, int], np.ndarray]
"""Takes (q, d) float queries, a coded base and k; gives (q, k) rows of the base, best first."""


@dataclass(frozen=True)
class Fitted:
    """A method that has seen its training rows; rows are (n, d) float32, not standardised."""

    encode: Callable[[np.ndarray], Encoded]
    """Turns rows into what is kept."""
    decode: Callable[[Encoded], np.ndarray] | None
    """Turns what is kept back into rows; None where the method's library cannot."""
    shared_bytes: int
    """Bytes kept once for all rows: codebooks, rotations, statistics."""
    search: Search | None = None
    """The method's own scorer of squared L2 between standardised rows; without one, search is
    exact on the reconstruction."""
    fit_seconds: tuple[float, float] | None = None
    """What the fit took by the clock and of CPU, where other methods share it; else measured."""
    limits: str = ""
    """What keeps the method below its best here, in a sentence; for the results."""

    def approximate(self, rows: np.ndarray) -> np.ndarray | None:
        """Encode and decode."""
        return None if self.decode is None else self.decode(self.encode(rows))


Fit = Callable[[np.ndarray], Fitted]
"""Takes (m, d) float32 training rows."""


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of every dimension of some rows."""

    mean: np.ndarray
    """(d,) float32."""
    scale: np.ndarray
    """(d,) float32, above 0."""

    @classmethod
    def of(cls, rows: np.ndarray) -> Standardisation:
        """Measure rows; a dimension that does not vary, rounding aside, keeps its unit."""
        mean = rows.mean(axis=0, dtype=np.float64)
        scale = rows.std(axis=0, dtype=np.float64)
        varies = scale > NOISE * np.median(scale)
        return cls(mean.astype(np.float32), np.where(varies, scale, 1).astype(np.float32))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Return rows less the mean, over the scale."""
        standard: np.ndarray = (rows - self.mean) / self.scale
        return standard

    def undo(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows that `apply` made these of."""
        raw: np.ndarray = rows * self.scale + self.mean
        return raw


def timed(call: Callable[[], Result]) -> tuple[Result, tuple[float, float]]:
    """Return a call's result and its seconds: by the clock, and of CPU in all threads."""
    wall, cpu = time.monotonic(), time.process_time()
    result = call()
    return result, (time.monotonic() - wall, time.process_time() - cpu)


def quantisers(n_dims: int, dataset: str) -> dict[str, Fit]:
    """Return the rivals, by name.

    Args:
        n_dims: width of the rows, divisible by 96.
        dataset: name of the data set; what learns slowly is tried at few rates on most.
    """
    sizes = sorted({*PRODUCT_BYTES, *(n_dims // part for part in (16, 8, 4, 2))})
    residual = RESIDUAL_STAGES.get(dataset, RESIDUAL_STAGES[""])
    trained = ResidualStages(
        n_dims, max(residual), n_rows=RESIDUAL_ROWS.get(dataset, RESIDUAL_ROWS[""])
    )
    rivals: dict[str, Fit] = {
        **{f"PQ{m}x8": partial(fit_product, partial(make_pq, n_dims, m)) for m in sizes},
        **{
            f"OPQ{m}x8": partial(fit_product, partial(make_opq, n_dims, m))
            for m in ROTATED_BYTES.get(dataset, ROTATED_BYTES[""])
        },
        **{f"RQ{m}x8": partial(trained.fit, m) for m in residual},
        **{f"LSQ{m}x8": partial(fit_searched, m) for m in SEARCHED_STAGES.get(dataset, ())},
        **{
            name: partial(fit_scalar, description)
            for name, description in SCALAR_QUANTISERS.items()
        },
        "float8 e4m3": partial(fit_floats, torch.float8_e4m3fn),
        f"int8, zstd -{ZSTD_LEVEL}": fit_compressed,
    }
    whole = {name: standardised(fit) for name, fit in rivals.items()}
    return {"float16": partial(fit_floats, torch.float16)} | whole


def standardised(fit: Fit) -> Fit:
    """Return the fit that standardises rows before a method sees them."""

    def fit_raw(train: np.ndarray) -> Fitted:
        standard = Standardisation.of(train)
        inner = fit(standard.apply(train))
        decode, search = inner.decode, inner.search
        return dataclasses.replace(
            inner,
            encode=lambda rows: inner.encode(standard.apply(rows)),
            decode=None if decode is None else lambda kept: standard.undo(decode(kept)),
            search=None if search is None else lambda q, *rest: search(standard.apply(q), *rest),
            shared_bytes=inner.shared_bytes + 2 * FLOAT_BYTES * train.shape[1],
        )

    return fit_raw


def make_pq(n_dims: int, n_parts: int) -> Any:
    """Return an untrained product quantiser of 8 bits a part."""
    return faiss.IndexPQ(n_dims, n_parts, 8, faiss.METRIC_L2)


def fit_product(make_index: Callable[[], Any], train: np.ndarray) -> Fitted:
    """Train a product quantiser; FAISS's scan of its codes is exact on the reconstruction."""
    index = make_index()
    index.train(train)
    inner_of(index).metric_type = index.metric_type = faiss.METRIC_L2
    return from_index(index, scores=True)


def fit_scalar(description: str, train: np.ndarray) -> Fitted:
    """Train one of FAISS's scalar quantisers, EDEN, TurboQuant and RaBitQ among them."""
    index: Any = faiss.index_factory(train.shape[1], description, faiss.METRIC_L2)
    index.train(train)
    if "RaBitQ" in description:
        inner_of(index).qb = QUERY_BITS
    if "RaBitQ" not in description and "EDEN" not in description:
        return from_index(index)
    fitted = from_index(index, scores=True)
    if description in ("RR,RaBitQ2", "RR,RaBitQ4"):
        note = "FAISS decodes only the first bit of a dimension: no reconstruction"
        return dataclasses.replace(fitted, decode=None, limits=note)
    return shrunk(fitted, train[:SHRINKING_ROWS])


def shrunk(fitted: Fitted, train: np.ndarray) -> Fitted:
    """Scale an unbiased reconstruction by the factor that makes its squared error least."""
    encode, decode = fitted.encode, fitted.decode
    assert decode is not None
    decoded = decode(encode(train))
    factor = np.float32((train * decoded).sum() / np.square(decoded).sum())
    return dataclasses.replace(
        fitted,
        decode=lambda kept: factor * decode(kept),
        shared_bytes=fitted.shared_bytes + FLOAT_BYTES,
        limits=f"the unbiased reconstruction is scaled by {factor:.3f}, which lowers its FVU",
    )


def from_index(index: Any, *, scores: bool = False) -> Fitted:
    """Return a trained FAISS index as a method.

    Args:
        index: a flat one, a transformation before it or not.
        scores: whether searches are the index's own, of distances that it estimates.
    """

    def encode(rows: np.ndarray) -> Encoded:
        blocks = range(0, len(rows), BLOCK_ROWS)
        codes = np.concatenate([index.sa_encode(rows[at : at + BLOCK_ROWS]) for at in blocks])
        return Encoded(codes, codes.nbytes / len(rows))

    def search(queries: np.ndarray, base: Encoded, k: int) -> np.ndarray:
        filled: Any = faiss.clone_index(index)
        inner_of(filled).add_sa_codes(base.codes)
        filled.ntotal = len(base.codes)
        found: np.ndarray = filled.search(queries, k)[1]
        return found

    shared = len(faiss.serialize_index(index))
    own = search if scores else None
    return Fitted(encode, lambda kept: index.sa_decode(kept.codes), shared, own)


def inner_of(index: Any) -> Any:
    """Return the index behind a transformation, or the index itself."""
    return faiss.downcast_index(index.index) if hasattr(index, "index") else index


class ResidualStages:
    """One residual quantiser of many stages; a shorter one has the first of them.

    FAISS trains stage by stage, so the codebooks of the first m stages are those of a residual
    quantiser of m. With a beam of 1 in training, k-means meets every training row once; FAISS's
    default of 5 was slower and worse.
    """

    def __init__(self, n_dims: int, n_stages: int, *, n_rows: int) -> None:
        self._n_dims, self._n_stages, self._n_rows = n_dims, n_stages, n_rows
        self._trained: dict[bytes, tuple[np.ndarray, tuple[float, float]]] = {}

    def fit(self, n_stages: int, train: np.ndarray) -> Fitted:
        """Return the first stages; all are trained when rows are first met."""
        key = train[:8].tobytes()
        if key not in self._trained:
            self._trained[key] = timed(lambda: self._train(train))
        codebooks, seconds = self._trained[key]
        index: Any = faiss.IndexResidualQuantizer(self._n_dims, n_stages, 8)
        faiss.copy_array_to_vector(codebooks[: n_stages * 256 * self._n_dims], index.rq.codebooks)
        index.rq.is_trained = index.is_trained = True
        index.rq.use_beam_LUT = 1  # as close, sooner
        index.rq.compute_codebook_tables()
        share = n_stages / self._n_stages
        return dataclasses.replace(
            from_index(index),
            fit_seconds=(share * seconds[0], share * seconds[1]),
            limits=f"{min(len(train), self._n_rows)} training rows; seconds of the fit are a "
            f"share of those of {self._n_stages} stages",
        )

    def _train(self, train: np.ndarray) -> np.ndarray:
        draw = np.random.default_rng(0).permutation(len(train))[: self._n_rows]
        quantiser = faiss.ResidualQuantizer(self._n_dims, self._n_stages, 8)
        quantiser.max_beam_size = 1
        quantiser.cp.progressive_dim_steps = RESIDUAL_STEPS
        quantiser.cp.max_points_per_centroid = len(draw)  # all
        quantiser.train(train[draw])
        codebooks: np.ndarray = faiss.vector_to_array(quantiser.codebooks)
        return codebooks


def fit_searched(n_stages: int, train: np.ndarray) -> Fitted:
    """Train a local-search quantiser on few rows and for few rounds; it encodes at its best."""
    index = faiss.IndexLocalSearchQuantizer(train.shape[1], n_stages, 8)
    index.lsq.train_iters, index.lsq.train_ils_iters = SEARCHED_ROUNDS, SEARCHES
    draw = np.random.default_rng(0).permutation(len(train))[:SEARCHED_ROWS]
    index.train(train[draw])
    limits = f"{len(draw)} training rows, {SEARCHED_ROUNDS} rounds of {SEARCHES} searches"
    return dataclasses.replace(from_index(index), limits=limits)


def fit_floats(dtype: torch.dtype, train: np.ndarray) -> Fitted:
    """Round rows to short floats."""
    row_bytes = float(dtype.itemsize * train.shape[1])
    return Fitted(
        lambda rows: Encoded(torch.from_numpy(rows).to(dtype), row_bytes),
        lambda kept: kept.codes.float().numpy(),
        shared_bytes=0,
    )


def fit_compressed(train: np.ndarray) -> Fitted:
    """Round rows to integers of 8 bits by dimension and compress them in blocks."""
    step = np.abs(train).max(axis=0) / INT8_MAX
    step[step == 0] = 1
    zstd = Zstd(level=ZSTD_LEVEL)

    def encode(rows: np.ndarray) -> Encoded:
        integers = np.clip(np.rint(rows / step), -INT8_MAX, INT8_MAX).astype(np.int8)
        blocks = range(0, len(rows), BLOCK_ROWS)
        codes = [zstd.encode(integers[at : at + BLOCK_ROWS].tobytes()) for at in blocks]
        return Encoded(codes, sum(map(len, codes)) / len(rows))

    def decode(kept: Encoded) -> np.ndarray:
        integers = np.frombuffer(b"".join(map(zstd.decode, kept.codes)), dtype=np.int8)
        restored: np.ndarray = integers.reshape(-1, len(step)) * step
        return restored

    return Fitted(encode, decode, shared_bytes=FLOAT_BYTES * len(step))
