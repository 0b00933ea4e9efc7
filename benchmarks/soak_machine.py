"""An index in use, step by step, with a model of it in plain numpy beside it.

A Hypothesis state machine: rows are added, removed, searched, saved and loaded in any order, and
whatever the library answers is held against dictionaries and brute force. `tests/test_soak.py`
runs it for seconds, `benchmarks.soak` for hours.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bitcodec import BitCodec
from bitcodec.bits import row_bytes
from bitcodec.errors import BitcodecError
from bitcodec.similarity import check_metric
from bitcodec_faiss import AsymmetricIndex, HammingIndex, load_index
from bitcodec_zarr import PackedArchive, open_archive

SCORE_TOLERANCE = 2e-4
"""Of float32 scores, beside the largest score in float64."""
N_LISTS = 4
HAMMING = ("Flat", f"IVF{N_LISTS}", "HNSW8")
ASYMMETRIC = {
    "inner_product": ("Flat", "inner_product"),
    "cosine": ("Flat", "cosine"),
    "l2": ("Flat", "l2"),
    "FastScan": ("FastScan", "inner_product"),
    f"IVF{N_LISTS} by l2": (f"IVF{N_LISTS}", "l2"),
}
"""Kinds of `AsymmetricIndex`: factory and metric."""
KINDS = (*HAMMING, *ASYMMETRIC)
N_NEW = st.integers(1, 40)
SEEDS = st.integers(0, 2**31)


@dataclass(frozen=True)
class Material:
    """What a machine works on."""

    hidden: np.ndarray
    """(n, d) float32, real hidden states."""
    codecs: tuple[BitCodec, ...]
    """Fitted on such."""


@dataclass
class Tally:
    """What machines have done so far."""

    n_examples: int = 0
    n_steps: int = 0
    n_compared: int = 0
    """Answers held against the model."""


class IndexMachine(RuleBasedStateMachine):
    """One index and one archive of one codec; `material` is set on a subclass."""

    material: Material
    tally = Tally()

    @initialize(kind=st.sampled_from(KINDS), codec=st.integers(0, 9), seed=SEEDS)
    def begin(self, kind: str, codec: int, seed: int) -> None:
        """Make an empty index, or train an IVF."""
        self.folder = Path(tempfile.mkdtemp(prefix="bitcodec-soak-"))
        self.codec = self.material.codecs[codec % len(self.material.codecs)]
        self.encoded = [self.codec.encode(self.material.hidden)]
        self.packed: dict[int, np.ndarray] = {}
        self.next_id = 0
        self.stored: list[np.ndarray] = []
        self.kind = kind
        self.index = self._make()
        if kind.startswith("IVF"):
            self.index.train(self._rows(self._choose(50 * N_LISTS, seed)))
        self.archive = PackedArchive.create(
            self.folder / "codes.zarr", self.codec, chunk_rows=8, shard_rows=32
        )
        type(self).tally.n_examples += 1

    def teardown(self) -> None:
        """Remove what was saved."""
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)

    # what changes it

    @rule(n_rows=N_NEW, seed=SEEDS)
    def add(self, n_rows: int, seed: int) -> None:
        """Add hidden states under the next ids."""
        chosen = self._choose(n_rows, seed)
        ids = self.index.add(self.material.hidden[chosen])
        self._same(ids, np.arange(self.next_id, self.next_id + n_rows))
        self._remember(ids, chosen)

    @rule(n_rows=N_NEW, seed=SEEDS)
    def add_packed_under_own_ids(self, n_rows: int, seed: int) -> None:
        """Add packed rows under ids in no order, those of removed rows among them."""
        chosen = self._choose(n_rows, seed)
        free = np.setdiff1d(np.arange(self.next_id + 100), list(self.packed))
        ids = np.random.default_rng(seed).permutation(free)[:n_rows]
        self.index.add_packed(self._rows(chosen[: len(ids)]), ids=ids)
        self._remember(ids, chosen)

    @precondition(lambda self: self.packed)
    @rule(seed=SEEDS)
    def add_an_id_twice(self, seed: int) -> None:
        """Ask for what must be refused, and must change nothing."""
        ids = [self.next_id, next(iter(self.packed))]
        self._refused(lambda: self.index.add_packed(self._rows(self._choose(2, seed)), ids=ids))

    @precondition(lambda self: self.packed and not self.kind.startswith("HNSW"))
    @rule(n_rows=N_NEW, seed=SEEDS)
    def remove(self, n_rows: int, seed: int) -> None:
        """Remove rows."""
        gone = np.random.default_rng(seed).permutation(sorted(self.packed))[:n_rows]
        self.index.remove(gone)
        for number in gone.tolist():
            del self.packed[number]

    @rule()
    def remove_what_is_not_there(self) -> None:
        """Ask for what must be refused."""
        self._refused(lambda: self.index.remove([self.next_id + 1000]))

    @rule()
    def save_and_load(self) -> None:
        """Go on with what was read from the folder."""
        self.index.save(self.folder / "index", overwrite=True)
        self.index = load_index(self.folder / "index", self.codec)

    @rule()
    def save_and_load_the_codec(self) -> None:
        """Go on with a codec from its folder; codes and fingerprint must be the same."""
        self.codec.save(self.folder / "codec", overwrite=True)
        loaded = BitCodec.load(self.folder / "codec")
        assert loaded.fingerprint_ == self.codec.fingerprint_
        self._same(loaded.encode(self.material.hidden[:50]), self.encoded[0][:50])
        self.codec = loaded

    @rule(n_rows=N_NEW, seed=SEEDS)
    def append_to_the_archive(self, n_rows: int, seed: int) -> None:
        """Add rows to the archive, and open it anew."""
        rows = self._rows(self._choose(n_rows, seed))
        self.archive.append(rows)
        self.stored.append(rows)
        self.archive = open_archive(self.folder / "codes.zarr", mode="r+")

    # what asks it

    @rule(n_rows=st.integers(1, 70), start=st.integers(0, 400))
    def encode(self, n_rows: int, start: int) -> None:
        """Encode some rows by themselves: the codes are those of all rows at once."""
        part = slice(start, start + n_rows)
        self._same(self.codec.encode(self.material.hidden[part]), self.encoded[0][part])

    @precondition(lambda self: self.stored)
    @rule(seed=SEEDS)
    def read_the_archive(self, seed: int) -> None:
        """Read a slice of the archive."""
        every = np.concatenate(self.stored)
        start, stop = np.sort(np.random.default_rng(seed).integers(0, len(every) + 1, 2))
        self._same(self.archive[int(start) : int(stop)], every[start:stop])

    @precondition(lambda self: self.packed)
    @rule(seed=SEEDS)
    def reconstruct(self, seed: int) -> None:
        """Ask for rows by their ids."""
        ids = np.random.default_rng(seed).permutation(sorted(self.packed))[:20]
        wanted = np.stack([self.packed[number] for number in ids.tolist()])
        self._same(self.index.reconstruct_packed(ids), wanted)

    @precondition(lambda self: self.packed)
    @rule(k=st.integers(1, 60), seed=SEEDS, filtered=st.booleans())
    def search(self, k: int, seed: int, filtered: bool) -> None:
        """Search, all rows or some."""
        self._check_search(k=k, seed=seed, filtered=filtered)

    @precondition(lambda self: self.packed)
    @rule(k=st.integers(1, 20), seed=SEEDS)
    def search_in_four_threads(self, k: int, seed: int) -> None:
        """Search with four threads at once."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: self._check_search(k=k, seed=seed + n), range(4)))

    @precondition(lambda self: self.packed and self.kind in HAMMING)
    @rule(radius=st.integers(0, 30), seed=SEEDS)
    def search_a_range(self, radius: int, seed: int) -> None:
        """Ask for all rows within a distance."""
        queries = self._rows(self._choose(3, seed))
        ids, distances = self._distances(queries)
        found = self.index.range_search_packed(queries, radius=radius, **self._effort())
        for number, own in enumerate(distances):
            near = np.flatnonzero(own <= radius)
            near = near[np.lexsort((ids[near], own[near]))]
            part = slice(found.limits[number], found.limits[number + 1])
            self._same(found.ids[part], ids[near])
            self._same(found.scores[part], own[near])

    @invariant()
    def has_the_models_size_and_ids(self) -> None:
        """Compare what is cheap to compare after every step."""
        if hasattr(self, "index"):
            type(self).tally.n_steps += 1
            assert len(self.index) == len(self.packed)
            self._same(np.sort(self.index.ids), np.array(sorted(self.packed), dtype=np.int64))
            assert len(self.archive) == sum(map(len, self.stored))

    # inside

    def _make(self) -> Any:
        if self.kind in HAMMING:
            return HammingIndex(self.codec, factory=self.kind)
        factory, metric = ASYMMETRIC[self.kind]
        return AsymmetricIndex(self.codec, factory=factory, metric=check_metric(metric))

    def _choose(self, n_rows: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, len(self.material.hidden), n_rows)

    def _rows(self, chosen: np.ndarray) -> np.ndarray:
        rows: np.ndarray = self.encoded[0][chosen]
        return rows

    def _remember(self, ids: np.ndarray, chosen: np.ndarray) -> None:
        for number, row in zip(ids.tolist(), self._rows(chosen), strict=False):
            self.packed[number] = row
            self.next_id = max(self.next_id, number + 1)

    def _effort(self) -> dict[str, int]:
        return {"nprobe": N_LISTS} if self.kind.startswith("IVF") else {}

    def _same(self, found: np.ndarray, wanted: np.ndarray) -> None:
        np.testing.assert_array_equal(found, wanted)
        type(self).tally.n_compared += 1

    def _refused(self, ask: Callable[[], Any]) -> None:
        try:
            ask()
        except BitcodecError:
            return
        raise AssertionError("what must be refused was done")

    def _model(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids, ascending, and the packed rows."""
        ids = np.array(sorted(self.packed), dtype=np.int64)
        return ids, np.stack([self.packed[number] for number in ids.tolist()])

    def _distances(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids, rows = self._model()
        width = row_bytes(self.codec.n_bits_)
        apart = np.bitwise_xor(queries[:, None, :width], rows[None, :, :width])
        return ids, np.unpackbits(apart, axis=2).sum(axis=2).astype(np.int32)

    def _check_search(self, *, k: int, seed: int, filtered: bool = False) -> None:
        chosen = self._choose(5, seed)
        ids = np.array(sorted(self.packed), dtype=np.int64)
        allowed = ids[np.random.default_rng(seed).random(len(ids)) < 0.5] if filtered else ids
        wanted = allowed if filtered else None
        if self.kind in HAMMING:
            found = self.index.search_packed(
                self._rows(chosen), k=k, filter=wanted, **self._effort()
            )
            self._check_distances(found, self._rows(chosen), allowed=allowed, k=k)
        else:
            queries = self.material.hidden[chosen]
            found = self.index.search(queries, k=k, filter=wanted, **self._effort())
            self._check_scores(found, queries, allowed=allowed, k=k)
        type(self).tally.n_compared += 1

    def _check_distances(
        self, found: Any, queries: np.ndarray, *, allowed: np.ndarray, k: int
    ) -> None:
        ids, distances = self._distances(queries)
        may = np.isin(ids, allowed)
        n_hits = min(k, len(allowed))
        assert (found.ids[:, n_hits:] == -1).all()
        for own, scores, hits in zip(distances, found.scores, found.ids, strict=True):
            order = np.flatnonzero(may)[np.lexsort((ids[may], own[may]))][:n_hits]
            if self.kind == "HNSW8":  # approximate: other rows, but with their true distances
                places = np.searchsorted(ids, hits[:n_hits])
                assert np.isin(hits[:n_hits], allowed).all()
                assert len(set(hits[:n_hits].tolist())) == n_hits
                np.testing.assert_array_equal(scores[:n_hits], own[places])
                assert (scores[:n_hits] >= own[order]).all()
            else:
                np.testing.assert_array_equal(hits[:n_hits], ids[order])
                np.testing.assert_array_equal(scores[:n_hits], own[order])

    def _check_scores(
        self, found: Any, queries: np.ndarray, *, allowed: np.ndarray, k: int
    ) -> None:
        ids, rows = self._model()
        sign = -1 if self.index.metric == "l2" else 1
        scores = sign * self._scores(queries, rows)
        may, n_hits = np.isin(ids, allowed), min(k, len(allowed))
        for own, given, hits in zip(scores, sign * found.scores, found.ids, strict=True):
            close = SCORE_TOLERANCE * (np.abs(own).max() + 1e-6)
            assert (hits[n_hits:] == -1).all()
            assert len(set(hits[:n_hits].tolist())) == n_hits
            assert np.isin(hits[:n_hits], allowed).all()
            np.testing.assert_allclose(
                given[:n_hits], own[np.searchsorted(ids, hits[:n_hits])], atol=close
            )
            best = np.sort(own[may])[::-1][:n_hits]
            if self.kind != "FastScan":  # whose candidates may miss some
                np.testing.assert_allclose(given[:n_hits], best, atol=close)

    def _scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Score in float64, from decoded rows and what a codec says of norms."""
        side = self.codec.side(rows)
        weights = self.codec.query_weights(queries)
        bits = np.unpackbits(rows, axis=1, bitorder="little")[:, : self.codec.n_bits_]
        linear = weights.weights.astype(np.float64) @ bits.T.astype(np.float64)
        inner = weights.base[:, None] + side.factor.astype(np.float64) * (
            weights.bias[:, None] + linear
        )
        squares = (queries.astype(np.float64) ** 2).sum(axis=1)[:, None]
        norms = side.squared_norm.astype(np.float64)
        if self.index.metric == "l2":
            result: np.ndarray = squares + norms - 2 * inner
            return result
        if self.index.metric == "cosine":
            cosines: np.ndarray = inner / np.sqrt(squares * norms)
            return cosines
        return inner
