"""The same job on every engine: rows from files into an archive."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.scale_rows import RepeatedRows
from bitcodec import BitCodec
from bitcodec_ray import Workers, encode_dataset, encode_rows, packed_batches, read_rows
from bitcodec_zarr import PackedArchive

SHARD_ROWS = 16_384


def one_process(rows: RepeatedRows, codec: BitCodec, archive: PackedArchive) -> None:
    """Encode slice by slice into the archive: what the others are measured against."""
    archive.append(codec.encode_batches(_slices(rows)))


def ray_rows(rows: RepeatedRows, codec: BitCodec, archive: PackedArchive) -> None:
    """`encode_rows` with one worker of one core."""
    encode_rows(rows, codec, archive)


def ray_rows_two(rows: RepeatedRows, codec: BitCodec, archive: PackedArchive) -> None:
    """`encode_rows` with two workers of one core each."""
    encode_rows(rows, codec, archive, workers=Workers(count=2))


def ray_dataset(rows: RepeatedRows, codec: BitCodec, archive: PackedArchive) -> None:
    """A pipeline: rows travel to an actor, codes to this process, which writes them."""
    encoded = encode_dataset(read_rows(rows), codec)
    archive.append(packed_batches(encoded))


def dask_threads(rows: RepeatedRows, codec: BitCodec, archive: PackedArchive) -> None:
    """`map_blocks` with two threads."""
    _dask(rows, codec, archive, scheduler="threads")


def dask_processes(rows: RepeatedRows, codec: BitCodec, archive: PackedArchive) -> None:
    """`map_blocks` with two processes."""
    _dask(rows, codec, archive, scheduler="processes")


ENGINES = {
    "one process": one_process,
    "Ray, encode_rows, 1 worker": ray_rows,
    "Ray, encode_rows, 2 workers": ray_rows_two,
    "Ray, encode_dataset": ray_dataset,
    "Dask, 2 threads": dask_threads,
    "Dask, 2 processes": dask_processes,
}


def run_engine(
    name: str, path: str, codec_folder: str, n_rows: int, *, check: bool = True
) -> tuple[str, int]:
    """Do the job into a folder that is removed.

    Args:
        name: of the engine.
        path: of the rows.
        codec_folder: of the codec.
        n_rows: to encode.
        check: read the archive for its digest, which takes longer than writing it.

    Returns:
        SHA-256 of the archive's rows, hexadecimal, and the bytes that it stores.
    """
    torch.set_num_threads(1)
    codec = BitCodec.load(codec_folder, device="cpu")
    codec.set_params(refine="none")
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        archive = PackedArchive.create(Path(folder) / "a.zarr", codec, shard_rows=SHARD_ROWS)
        ENGINES[name](RepeatedRows(path, n_rows), codec, archive)
        for packed in archive.batches() if check else ():
            digest.update(packed)
        return digest.hexdigest(), archive.bytes_stored


def _slices(rows: RepeatedRows) -> Iterator[np.ndarray]:
    return (rows[start : start + 4096] for start in range(0, len(rows), 4096))


def _dask(rows: Any, codec: BitCodec, archive: PackedArchive, *, scheduler: str) -> None:
    import dask
    import dask.array as da

    n_dims, width = codec.n_dims_, codec.row_bytes_
    starts = range(0, len(rows), SHARD_ROWS)
    sizes = tuple(min(SHARD_ROWS, len(rows) - start) for start in starts)
    blocks = [
        da.from_delayed(dask.delayed(_slice)(rows, start), (size, n_dims), np.float32)
        for start, size in zip(starts, sizes, strict=True)
    ]
    packed = da.concatenate(blocks).map_blocks(
        codec.encode, dtype="uint8", chunks=(sizes, (width,)), meta=np.empty((0, 0), "uint8")
    )
    written = [
        dask.delayed(archive.write_shard)(index, block)
        for index, block in enumerate(packed.to_delayed().ravel())
    ]
    archive.commit(dask.compute(*written, scheduler=scheduler, num_workers=2))


def _slice(rows: Any, start: int) -> np.ndarray:
    values: np.ndarray = rows[start : start + SHARD_ROWS]
    return values
