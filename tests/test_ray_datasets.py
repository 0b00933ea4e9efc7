"""Steps of Ray Data: codes beside their ids, errors as what they are, counts that add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitcodec import BitCodec, BitStatistics
from bitcodec.errors import ConfigError, FormatError, MismatchError, ShapeError, ValueRangeError
from bitcodec_ray import (
    PackedParquet,
    Workers,
    count_dataset,
    decode_dataset,
    encode_dataset,
    open_packed_parquet,
    packed_batches,
    read_codes,
    read_rows,
)
from bitcodec_ray.columns import PackedHeader, matrix_of, packed_array, with_packed
from bitcodec_zarr import PackedArchive, open_archive

pytestmark = pytest.mark.usefixtures("cluster")


# real pipelines


def test_a_pipeline_encodes_to_parquet_and_an_archive_with_ids_beside_the_codes(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    np.save(tmp_path / "hidden.npy", hidden[:1000])
    rows = read_rows(tmp_path / "hidden.npy", block_rows=300)
    workers = Workers(count=2, batch_rows=77)
    encoded = encode_dataset(rows, codec, workers=workers).materialize()
    encoded.write_parquet(str(tmp_path / "codes"))
    table = pq.read_table(tmp_path / "codes").sort_by("row")
    assert table.column("row").to_pylist() == list(range(1000))
    packed = matrix_of(table.column("packed"), name="packed")
    np.testing.assert_array_equal(packed, codec.encode(hidden[:1000]))
    for file in (tmp_path / "codes").iterdir():
        for metadata in (pq.read_metadata(file).metadata, pq.read_schema(file).field(1).metadata):
            header = PackedHeader.of(metadata, where=str(file))
            assert header == PackedHeader(67, 0, codec.fingerprint_)
    archive = PackedArchive.create(tmp_path / "a.zarr", codec, chunk_rows=64, shard_rows=256)
    archive.append(packed_batches(encoded))
    np.testing.assert_array_equal(open_archive(tmp_path / "a.zarr")[:], packed)


def test_codes_of_an_archive_are_counted_and_decoded_beside_their_numbers(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    packed = codec.encode(hidden[:1000])
    archive = PackedArchive.create(tmp_path / "a.zarr", codec, chunk_rows=64, shard_rows=256)
    codes = read_codes(archive.append(packed), block_rows=256)
    counted = count_dataset(codes, codec)
    once = BitStatistics.empty(67).update(packed)
    assert counted.n_rows == 1000
    np.testing.assert_array_equal(counted.counts, once.counts)
    decoded = decode_dataset(codes, codec, keep_column=True).to_pandas().sort_values("row")
    np.testing.assert_allclose(np.stack(decoded["hidden"]), codec.decode(packed), rtol=1e-5)
    other = codec.recenter(hidden[:100])
    with pytest.raises(MismatchError, match=f"not by {other.fingerprint_[:12]}"):
        count_dataset(codes, other)


# columns


@pytest.mark.parametrize("kind", ["lists", "large lists", "fixed lists", "tensors", "slices"])
def test_vectors_come_out_of_every_kind_of_column(kind: str) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 3)
    columns = {
        "lists": pa.array(list(rows)),
        "large lists": pa.array(list(rows), pa.large_list(pa.float32())),
        "fixed lists": fixed,
        "tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(rows),
        "slices": pa.concat_arrays([fixed, fixed]).slice(4, 4),
    }
    found = matrix_of(
        pa.chunked_array([columns[kind].slice(0, 1), columns[kind].slice(1)]), name=""
    )
    np.testing.assert_array_equal(found, rows, strict=True)


def test_packed_rows_go_into_a_column_and_come_back_by_slices() -> None:
    packed = np.arange(15, dtype=np.uint8).reshape(5, 3)
    column = pa.chunked_array([packed_array(packed).slice(1, 3)])
    np.testing.assert_array_equal(matrix_of(column, name="packed"), packed[1:4])


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([[1.0, 2.0], [3.0]], ShapeError, "different lengths"),
        ([[1.0], None], ValueRangeError, "rows without a value"),
        ([[1.0], [None]], ValueRangeError, "missing numbers"),
        ([1.0, 2.0], ShapeError, "must hold vectors of one length, got double"),
    ],
)
def test_columns_that_hold_no_vectors_are_refused(
    values: list[object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        matrix_of(pa.chunked_array([pa.array(values)]), name="hidden")


def test_damaged_metadata_of_packed_rows_are_refused() -> None:
    header = PackedHeader(17, 0, "a" * 64)
    table = with_packed(pa.table({"row": [1]}), "packed", np.zeros((1, 3), np.uint8), header)
    known = table.schema.metadata[b"bitcodec"]
    assert PackedHeader.of(table.schema.metadata, where="t") == header
    for content, message in (
        (known[:-1], "damaged"),
        (known.replace(b'"n_bits": 17', b'"n_bits": 90'), "says 3 bytes a row and 12"),
        (known.replace(b'"format_version": 2', b'"format_version": 9'), "of format 9"),
    ):
        with pytest.raises(FormatError, match=message):
            PackedHeader.of({b"bitcodec": content}, where="t")


# folders of Parquet


def test_a_folder_of_codes_of_two_codecs_is_refused(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    for name, used in (("a", codec), ("b", codec.recenter(hidden[:100]))):
        output = PackedParquet(tmp_path / name, used, shard_rows=8)
        output.commit([output.write_shard(0, used.encode(hidden[:8]))])
    (tmp_path / "b" / "codes-000000.parquet").rename(tmp_path / "a" / "codes-000001.parquet")
    with pytest.raises(MismatchError, match="several codecs"):
        open_packed_parquet(tmp_path / "a")


def test_a_folder_appears_only_with_all_its_files(
    hidden: np.ndarray, codec: BitCodec, tmp_path: Path
) -> None:
    packed = codec.encode(hidden[:20])
    output = PackedParquet(tmp_path / "codes", codec, shard_rows=8)
    first, last = output.write_shard(0, packed[:8]), output.write_shard(2, packed[16:])
    with pytest.raises(ConfigError, match="every file from 0 on once"):
        output.commit([first, last])
    with pytest.raises(ShapeError, match="1 to 8 rows"):
        output.write_shard(1, packed)
    middle = output.write_shard(1, packed[8:16])
    output.write_shard(1, packed[8:15])
    with pytest.raises(FormatError, match="not the file that was written"):
        output.commit([first, middle, last])
    assert not (tmp_path / "codes").exists()
    output.commit([last, first, output.write_shard(1, packed[8:16])])
    codes = open_packed_parquet(tmp_path / "codes")
    np.testing.assert_array_equal(codes[:], packed)
    assert codes.fingerprint == codec.fingerprint_
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes"]
