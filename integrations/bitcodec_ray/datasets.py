"""Steps of Ray Data: encode, decode and count what any pipeline brings, and read rows and codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import Dataset

from bitcodec import BitCodec, BitStatistics
from bitcodec.bits import row_bytes
from bitcodec.config import Refine
from bitcodec.errors import ShapeError
from bitcodec.files import PathLike
from bitcodec_ray.columns import (
    PackedHeader,
    column_of,
    matrix_of,
    with_packed,
)
from bitcodec_ray.failures import keeping_errors, raising_own_errors
from bitcodec_ray.preflight import require_package
from bitcodec_ray.protocol import Codes, Rows
from bitcodec_ray.shipping import ShippedCodec
from bitcodec_ray.sources import open_rows
from bitcodec_ray.workers import Workers

BLOCK_ROWS = 2**14
"""Rows of a block that is read."""
COUNTED_ROWS = 2**16
"""Rows whose counts travel as one row."""


def encode_dataset(
    dataset: Dataset,
    codec: BitCodec,
    *,
    column: str = "hidden",
    output: str = "packed",
    keep_column: bool = False,
    workers: Workers | None = None,
    refine: Refine | int | None = None,
) -> Dataset:
    """Encode a column of vectors; all other columns, ids among them, are carried along.

    Rows stay in order within a block; Ray keeps the blocks in order only where its option
    `preserve_order` is set. Workers hold their cores while others read: leave some.

    Args:
        dataset: with a column of lists, or tensors, of d numbers.
        codec: fitted.
        column: the vectors.
        output: the new column of binaries of row_bytes_ bytes, whose metadata carry the number of
            bits and the fingerprint, also through `Dataset.write_parquet`.
        keep_column: keep the vectors too.
        workers: how many there are, and what each may use.
        refine: as in `BitCodec.encode`.

    Returns:
        The dataset, not yet computed. While it is, a worker raises ShapeError where there are no
        vectors of d numbers in `column`, and ValueRangeError where one is missing, NaN or infinite.

    Raises:
        NotFittedError: the codec was not fitted.
        MissingExtraError: a worker cannot import this package.
    """
    require_package()
    asked = workers or Workers()
    header = PackedHeader(codec.n_bits_, codec.side_bytes_, codec.fingerprint_)
    effort = codec.refine if refine is None else refine  # which the codec's files do not know
    arguments = {"column": column, "output": output, "keep_column": keep_column, "header": header}
    encoded = dataset.map_batches(
        _Encoder,
        batch_size=asked.batch_rows,
        batch_format="pyarrow",
        fn_constructor_kwargs=arguments
        | {"codec": ray.put(ShippedCodec.of(codec)), "refine": effort, "workers": asked},
        **asked.options(),
    )
    return keeping_errors(encoded)


def decode_dataset(
    dataset: Dataset,
    codec: BitCodec,
    *,
    column: str = "packed",
    output: str = "hidden",
    keep_column: bool = False,
    workers: Workers | None = None,
) -> Dataset:
    """Decode a column of packed rows; all other columns are carried along.

    Args:
        dataset: with packed rows as binaries, or tensors, of row_bytes_ bytes.
        codec: that made them.
        column: the packed rows.
        output: the new column of d float32 numbers.
        keep_column: keep the packed rows too.
        workers: how many there are, and what each may use.

    Returns:
        The dataset, not yet computed. While it is, a worker raises MismatchError where the column's
        metadata name another codec, and ShapeError where rows have another width.

    Raises:
        NotFittedError: the codec was not fitted.
        MissingExtraError: a worker cannot import this package.
    """
    require_package()
    asked = workers or Workers()
    arguments = {"column": column, "output": output, "keep_column": keep_column}
    decoded = dataset.map_batches(
        _Decoder,
        batch_size=asked.batch_rows,
        batch_format="pyarrow",
        fn_constructor_kwargs=arguments
        | {"codec": ray.put(ShippedCodec.of(codec)), "workers": asked},
        **asked.options(),
    )
    return keeping_errors(decoded)


def count_dataset(dataset: Dataset, codec: BitCodec, *, column: str = "packed") -> BitStatistics:
    """Count the bits that are on, in parallel; counts of parts add up to those of the whole.

    Args:
        dataset: with packed rows as `encode_dataset` and `read_codes` give them.
        codec: that made them.
        column: the packed rows.

    Raises:
        MismatchError: the column's metadata name another codec.
        ShapeError: rows have another width.
        MissingExtraError: a worker cannot import this package.
    """
    require_package()
    count = _Counter(column, codec.n_bits_, codec.side_bytes_, codec.fingerprint_)
    counted = dataset.map_batches(count, batch_size=COUNTED_ROWS, batch_format="pyarrow")
    total = BitStatistics.empty(codec.n_bits_)
    with raising_own_errors():
        for part in keeping_errors(counted).iter_rows():
            total.merge(BitStatistics(int(part["n_rows"]), np.asarray(part["counts"])))
    return total


def read_rows(
    source: Rows | PathLike | Sequence[PathLike],
    *,
    column: str = "hidden",
    block_rows: int = BLOCK_ROWS,
) -> Dataset:
    """Read files that Ray has no reader for, by slices: .npy, .safetensors, Zarr.

    Args:
        source: what `open_rows` takes.
        column: of the rows.
        block_rows: rows read at a time.

    Returns:
        A dataset of `row`, the number of every row, and the column.

    Raises:
        As `open_rows`.
    """
    rows = open_rows(source, column=column)

    def read(start: int, stop: int) -> pa.Table:
        values = np.asarray(rows[start:stop])
        flat = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        return pa.table({"row": np.arange(start, stop), column: flat})

    return _read_blocks(len(rows), block_rows, read)


def read_codes(codes: Codes, *, column: str = "packed", block_rows: int = BLOCK_ROWS) -> Dataset:
    """Read packed rows of an archive of `bitcodec_zarr`, or of `open_packed_parquet`.

    Args:
        codes: the packed rows.
        column: to put them in, with the number of bits and the fingerprint in its metadata.
        block_rows: rows read at a time; best a multiple of what is stored together.

    Returns:
        A dataset of `row`, the number of every row, and the column.
    """
    header = PackedHeader(codes.n_bits, codes.side_bytes, codes.fingerprint)

    def read(start: int, stop: int) -> pa.Table:
        numbers = pa.table({"row": np.arange(start, stop)})
        return with_packed(numbers, column, codes[start:stop], header)

    return _read_blocks(len(codes), block_rows, read)


def packed_batches(dataset: Dataset, *, column: str = "packed") -> Iterator[np.ndarray]:
    """Give packed rows in the dataset's order, as a stream for `PackedArchive.append`.

    Args:
        dataset: with packed rows in a column.
        column: the column.

    Yields:
        (b, row_bytes) uint8.
    """
    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        with raising_own_errors():
            for table in dataset.iter_batches(batch_format="pyarrow", batch_size=BLOCK_ROWS):
                yield matrix_of(column_of(table, column), name=column)
    finally:
        options.preserve_order = before


def _read_blocks(n_rows: int, block_rows: int, read: Callable[[int, int], pa.Table]) -> Dataset:
    require_package()
    n_blocks = max(1, -(-n_rows // block_rows))

    def read_block(numbers: dict[str, np.ndarray]) -> pa.Table:
        starts = [int(number) * block_rows for number in numbers["id"]]
        return pa.concat_tables([read(start, min(start + block_rows, n_rows)) for start in starts])

    # No `range`: its tasks would wait for a core where actors of later steps hold them all.
    blocks = ray.data.from_items(
        [{"id": number} for number in range(n_blocks)], override_num_blocks=n_blocks
    )
    return keeping_errors(blocks.map_batches(read_block, batch_size=1))


class _Encoder:
    """An actor that adds packed rows to tables."""

    def __init__(
        self,
        *,
        codec: Any,
        column: str,
        output: str,
        keep_column: bool,
        header: PackedHeader,
        refine: Refine | int,
        workers: Workers,
    ) -> None:
        self._codec: BitCodec = ray.get(codec).load(workers)
        self._column, self._output, self._keep = column, output, keep_column
        self._header, self._refine = header, refine

    def __call__(self, table: pa.Table) -> pa.Table:
        hidden = matrix_of(column_of(table, self._column), name=self._column)
        packed = self._codec.encode(hidden, refine=self._refine)
        rest = table if self._keep else table.drop_columns([self._column])
        return with_packed(rest, self._output, packed, self._header)


class _Decoder:
    """An actor that adds decoded vectors to tables."""

    def __init__(
        self, *, codec: Any, column: str, output: str, keep_column: bool, workers: Workers
    ) -> None:
        self._codec: BitCodec = ray.get(codec).load(workers)
        self._column, self._output, self._keep = column, output, keep_column

    def __call__(self, table: pa.Table) -> pa.Table:
        packed = _codes_of(table, self._column, fingerprint=self._codec.fingerprint_)
        hidden = self._codec.decode(packed)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(hidden.reshape(-1)), hidden.shape[1])
        rest = table if self._keep else table.drop_columns([self._column])
        return rest.append_column(self._output, vectors)


class _Counter:
    """Counts of a table of packed rows, as a table of one row."""

    def __init__(self, column: str, n_bits: int, side_bytes: int, fingerprint: str) -> None:
        self._column, self._fingerprint = column, fingerprint
        self._n_bits, self._side_bytes = n_bits, side_bytes

    def __call__(self, table: pa.Table) -> pa.Table:
        packed = _codes_of(table, self._column, fingerprint=self._fingerprint)
        width = row_bytes(self._n_bits)
        if packed.shape[1] != width + self._side_bytes:
            raise ShapeError(
                f"packed must be (n, {width + self._side_bytes}), got {packed.shape}: these are "
                "codes of another codec"
            )
        counted = BitStatistics.empty(self._n_bits).update(packed[:, :width])
        return pa.table({"n_rows": [counted.n_rows], "counts": [counted.counts]})


def _codes_of(table: pa.Table, column: str, *, fingerprint: str) -> np.ndarray:
    packed = matrix_of(column_of(table, column), name=column)
    header = PackedHeader.of(table.schema.field(column).metadata, where=f"column {column!r}")
    if header is not None:
        header.require(fingerprint, where=f"column {column!r}")
    return packed
