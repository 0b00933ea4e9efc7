"""Make the golden files of range coding and archives: format 1, and 2 with side bytes.

Run it for a new format version only, into an empty folder, and commit what is new beside the old
files: `PYTHONPATH=.:integrations python tests/golden/make_range_coding.py FOLDER`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from bitcodec.bits import pack, row_bytes
from bitcodec.range_coding import ContextTable, ProbabilityTable, Table, compress
from bitcodec.statistics import BitStatistics
from bitcodec_zarr import PackedArchive

N_BITS, N_ROWS = 67, 100


def main(folder: Path) -> None:
    """Write rows, compressed rows of each kind and format, and archives of every format."""
    packed = rows_of_bits()
    side = np.random.default_rng(1).uniform(1, 1.7, (N_ROWS, 1)).astype("<f2").view(np.uint8)
    wide = np.concatenate([packed, side], axis=1)
    statistics = BitStatistics.empty(N_BITS).update(packed)
    independent = ProbabilityTable.from_statistics(statistics)
    profiles = ProbabilityTable.learn(packed, n_bits=N_BITS, n_profiles=3)
    np.save(folder / "range_coding_rows.npy", packed)
    np.save(folder / "range_coding_side.npy", side)
    write_compressed(folder / "range_coding_v1_independent.bin", packed, independent)
    write_compressed(folder / "range_coding_v1_profiles.bin", packed, profiles)
    write_compressed(folder / "range_coding_v1_context.bin", packed, context_table())
    write_compressed(folder / "range_coding_v2_side.bin", wide, profiles)
    write_archive(folder / "archive_v1.zarr", packed, statistics)
    write_archive(folder / "archive_v2.zarr", wide, statistics)
    write_archive(folder / "archive_v3.zarr", wide, statistics, compute="bfloat16")


def rows_of_bits() -> np.ndarray:
    """Make packed rows of two kinds, with a bit that is never on and one that always is."""
    generator = np.random.default_rng(0)
    activity = np.concatenate([[0, 1], np.linspace(0.01, 0.6, N_BITS - 2)])
    groups = generator.integers(0, 2, (N_ROWS, 1)) * np.linspace(-0.3, 0.3, N_BITS)
    return pack(generator.random((N_ROWS, N_BITS)) < activity + groups * (activity % 1 > 0))


def context_table() -> ContextTable:
    """Make a table of any weights."""
    generator = np.random.default_rng(2)
    within, across = generator.integers(-20, 20, (2, N_BITS, N_BITS), dtype=np.int8)
    bias = generator.integers(-80, 20, N_BITS, dtype=np.int16)
    return ContextTable(bias=bias, within=np.triu(within, 1), across=across)


def write_compressed(path: Path, packed: np.ndarray, table: Table) -> None:
    """Compress rows into a file."""
    side_bytes = packed.shape[1] - row_bytes(N_BITS)
    path.write_bytes(compress(packed, table, side_bytes=side_bytes, block_rows=48))


def write_archive(
    path: Path, packed: np.ndarray, statistics: BitStatistics, *, compute: str | None = None
) -> None:
    """Write rows into an archive; without `compute`, one of an older format."""
    codec = SimpleNamespace(
        n_bits_=N_BITS,
        side_bytes_=packed.shape[1] - row_bytes(N_BITS),
        fingerprint_="f" * 64,
        statistics_=statistics,
        compute=compute,
    )
    PackedArchive.create(path, codec, chunk_rows=16, shard_rows=64).append(packed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
