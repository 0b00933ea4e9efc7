"""The same job on every engine: rows from files into an archive."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.scale_rows import RepeatedRows
from benchmarks.scale_usage import Usage, measured
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
    "Ray, encode_rows, 2 workers": ray_rows_two,
    "Dask, 2 threads": dask_threads,
    "Ray, encode_dataset": ray_dataset,
    "Ray, encode_rows, 1 worker": ray_rows,
    "Dask, 2 processes": dask_processes,
}


@dataclass(frozen=True)
class Run:
    """What a job used, and what it wrote."""

    usage: Usage
    """Of the job alone, without loading the codec and looking at the archive."""
    digest: str
    """SHA-256 of the archive's rows, hexadecimal; empty where they were not read."""
    bytes_stored: int
    """Of the archive."""


def run_engine(
    name: str, path: str, codec_folder: str, n_rows: int, *, memory: bool = False
) -> Run:
    """Do the job into a folder that is removed.

    Args:
        name: of the engine.
        path: of the rows.
        codec_folder: of the codec.
        n_rows: to encode.
        memory: watch the memory, and do not read the archive for its digest.
    """
    torch.set_num_threads(1)
    codec = BitCodec.load(codec_folder, device="cpu")
    codec.set_params(refine="none")
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        archive = PackedArchive.create(Path(folder) / "a.zarr", codec, shard_rows=SHARD_ROWS)
        with measured(memory=memory) as usage:
            ENGINES[name](RepeatedRows(path, n_rows), codec, archive)
        for packed in () if memory else archive.batches():
            digest.update(packed.tobytes())
        return Run(usage, digest.hexdigest(), archive.bytes_stored)


def _slices(rows: RepeatedRows) -> Iterator[np.ndarray]:
    return (rows[start : start + 4096] for start in range(0, len(rows), 4096))


def _dask(rows: Any, codec: BitCodec, archive: PackedArchive, *, scheduler: str) -> None:
    import dask.array as da
    from dask.base import compute
    from dask.delayed import delayed

    n_dims, width = codec.n_dims_, codec.row_bytes_
    starts = range(0, len(rows), SHARD_ROWS)
    sizes = tuple(min(SHARD_ROWS, len(rows) - start) for start in starts)
    blocks = [
        da.from_delayed(delayed(_slice)(rows, start), (size, n_dims), np.float32)
        for start, size in zip(starts, sizes, strict=True)
    ]
    packed = da.concatenate(blocks).map_blocks(
        codec.encode, dtype="uint8", chunks=(sizes, (width,)), meta=np.empty((0, 0), "uint8")
    )
    written = [
        delayed(archive.write_shard)(index, block)
        for index, block in enumerate(packed.to_delayed().ravel())
    ]
    archive.commit(compute(*written, scheduler=scheduler, num_workers=2))


def _slice(rows: Any, start: int) -> np.ndarray:
    values: np.ndarray = rows[start : start + SHARD_ROWS]
    return values
