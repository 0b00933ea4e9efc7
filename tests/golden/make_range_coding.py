"""Make the golden files of range coding and archives, format 1.

Run it only for a new format version, and keep the old files:
`PYTHONPATH=.:integrations python tests/golden/make_range_coding.py`.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from bitcodec.bits import pack
from bitcodec.range_coding import ProbabilityTable, compress
from bitcodec.statistics import BitStatistics
from bitcodec_zarr import PackedArchive

HERE = Path(__file__).parent
N_BITS, N_ROWS = 67, 100


def main() -> None:
    """Write rows, compressed rows of both kinds of table, and an archive."""
    generator = np.random.default_rng(0)
    activity = np.concatenate([[0, 1], np.linspace(0.01, 0.6, N_BITS - 2)])
    groups = generator.integers(0, 2, (N_ROWS, 1)) * np.linspace(-0.3, 0.3, N_BITS)
    packed = pack(generator.random((N_ROWS, N_BITS)) < activity + groups * (activity % 1 > 0))
    statistics = BitStatistics.empty(N_BITS).update(packed)
    np.save(HERE / "range_coding_rows.npy", packed)
    tables = {
        "independent": ProbabilityTable.from_statistics(statistics),
        "profiles": ProbabilityTable.learn(packed, n_bits=N_BITS, n_profiles=3),
    }
    for name, table in tables.items():
        data = compress(packed, table, block_rows=48)
        (HERE / f"range_coding_v1_{name}.bin").write_bytes(data)
    codec = SimpleNamespace(n_bits_=N_BITS, fingerprint_="f" * 64, statistics_=statistics)
    archive = PackedArchive.create(HERE / "archive_v1.zarr", codec, chunk_rows=16, shard_rows=64)
    archive.append(packed)


if __name__ == "__main__":
    main()
