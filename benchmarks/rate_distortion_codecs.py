"""bitcodec's own methods in the rate-distortion benchmark."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.quantisers import Encoded, Fit, Fitted, standardised, timed
from bitcodec import BitCodec
from bitcodec.context_table import ContextTable
from bitcodec.errors import MismatchError
from bitcodec.files import read_json, write_json
from bitcodec.range_coding import ProbabilityTable, Table, compress, decompress, learn_context
from bitcodec_faiss import AsymmetricIndex

PRICES = (0.34, 0.7, 0.17, 0.07, 0.5)
"""Entropy weights of the sparse codecs: near 200, 80, 500, 1,000 and 130 bits at layer 15."""
N_STEPS = {"layer-15": 3000}
"""Minibatches of their fits by data set; else the default."""
TABLE_ROWS = 2**17
"""Training rows whose codes tables are learned on, in their order."""
Seconds = tuple[float, float]
"""By the clock, and of CPU in all threads."""
DENSE_BITS = (1, 2, 4)
"""Bits per dimension of the dense codecs, which have four side bytes."""


class Codecs:
    """Codecs of a data set and their tables, made once and kept in a folder.

    What is kept is refused for other training rows than it was made of.

    Args:
        folder: gets a codec's folder and its table by name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def codec(
        self,
        name: str,
        make: Callable[[], BitCodec],
        train: np.ndarray,
        *,
        sensitivity: Callable[[], np.ndarray] | None = None,
    ) -> tuple[BitCodec, Seconds]:
        """Return a fitted codec, and the seconds its fit took, by the clock and of CPU."""
        place = self._folder / name

        def fit() -> None:
            minded = None if sensitivity is None else sensitivity()
            make().fit(train, sensitivity=minded).save(place)

        seconds = make_once(place, train, fit)
        return BitCodec.load(place), seconds

    def table(self, name: str, codec: BitCodec, train: np.ndarray) -> tuple[ContextTable, Seconds]:
        """Return the context table of a codec's codes, and the seconds of encoding and learning."""
        place = self._folder / f"{name}.context"

        def learn() -> None:
            codes = codec.encode(train[:TABLE_ROWS])
            place.write_bytes(learn_context(codes, n_bits=codec.n_bits_).to_bytes())

        seconds = make_once(place, train, learn)
        return ContextTable.from_bytes(place.read_bytes()), seconds

    def shared_bytes(self, name: str) -> int:
        """Return the bytes of a codec's folder."""
        return sum(file.stat().st_size for file in (self._folder / name).iterdir())


def make_once(place: Path, rows: np.ndarray, make: Callable[[], None]) -> Seconds:
    """Make what is not there, and return the seconds that it took, now or then.

    Args:
        place: a file or folder; what is known of it goes into a JSON file beside it.
        rows: what it is made of.
        make: makes it there.

    Raises:
        MismatchError: it was made of other rows.
    """
    told = place.with_name(f"{place.name}.json")
    digest = hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=8).hexdigest()
    if not told.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        seconds = timed(make)[1]
        write_json(told, {"rows": digest, "seconds": list(seconds)})
    known = read_json(told)
    if known["rows"] != digest:
        raise MismatchError(f"{place} was made of other training rows: choose another folder")
    wall, cpu = known["seconds"]
    return wall, cpu


Coding = Literal["searched context", "context", "independent"]
"""A context table whose prices the codes are searched at, or only coded with, or none."""


def codecs(dataset: str, folder: Path) -> dict[str, Fit]:
    """Return our methods, by names that begin with `bitcodec`.

    Args:
        dataset: name of the data set, for settings that depend on it.
        folder: where fitted codecs are kept.
    """
    kept = Codecs(folder / dataset)
    sparse = partial(fit_sparse, kept, N_STEPS.get(dataset, 1000))
    methods: dict[str, Fit] = {}
    for price in PRICES:
        methods |= {
            f"bitcodec {price}": partial(sparse, price, "context", "fast"),
            f"bitcodec {price}, best": partial(sparse, price, "context", "best"),
            f"bitcodec {price}, in context": partial(sparse, price, "searched context", "fast"),
            f"bitcodec {price}, in context, best": partial(
                sparse, price, "searched context", "best"
            ),
            f"bitcodec {price}, bits alone": partial(sparse, price, "independent", "fast"),
            f"bitcodec {price}, linear": partial(sparse, price, "independent", "none"),
        }
    for bits in DENSE_BITS:
        methods[f"bitcodec dense {bits}"] = standardised(partial(fit_dense, kept, bits))
    return methods


def fit_sparse(
    kept: Codecs,
    n_steps: int,
    price: float,
    coding: Coding,
    effort: Literal["none", "fast", "best"],
    train: np.ndarray,
    *,
    sensitivity: Callable[[], np.ndarray] | None = None,
    share: float = 0.5,
) -> Fitted:
    """Fit the preset "archive"; bytes are the entropy coder's, in blocks of 1,024 rows."""
    name = f"archive-{price}-{n_steps}" + ("" if sensitivity is None else f"-minded-{share}")
    settings = {"entropy_weight": price, "n_steps": n_steps, "sensitivity_share": share}
    codec, seconds = kept.codec(
        name,
        lambda: BitCodec.preset("archive", **settings),
        train,
        sensitivity=sensitivity,
    )
    learned = None
    if coding != "independent":
        learned, spent = kept.table(name, codec, train)
        seconds = seconds[0] + spent[0], seconds[1] + spent[1]
    table: Table = learned or ProbabilityTable.from_statistics(codec.statistics_)
    context = learned if coding == "searched context" else None

    def encode(rows: np.ndarray) -> Encoded:
        codes = codec.encode(rows, refine=effort, context=context)
        data = compress(codes, table, embed_table=False)
        return Encoded(data, len(data) / len(rows))

    return Fitted(
        encode,
        lambda encoded: codec.decode(decompress(encoded.codes, table=table)),
        shared_bytes=kept.shared_bytes(name) + len(table.to_bytes()),
        fit_seconds=seconds,
        limits=f"{n_steps} steps",
    )


def fit_dense(kept: Codecs, bits: int, train: np.ndarray) -> Fitted:
    """Fit the preset "search", all dimensions alike, with factor and norm beside the bits."""
    name = f"dense-{bits}"
    codec, seconds = kept.codec(
        name,
        lambda: BitCodec.preset("search", expansion=bits, side_bytes=4),
        train,
    )

    def encode(rows: np.ndarray) -> Encoded:
        return Encoded(codec.encode(rows), float(codec.row_bytes_))

    def search(queries: np.ndarray, base: Encoded, k: int) -> np.ndarray:
        index = AsymmetricIndex(codec, metric="l2")
        index.add_packed(base.codes)
        return index.search(queries, k=k).ids

    return Fitted(
        encode,
        lambda encoded: codec.decode(encoded.codes),
        shared_bytes=kept.shared_bytes(name),
        search=search,
        fit_seconds=seconds,
    )
