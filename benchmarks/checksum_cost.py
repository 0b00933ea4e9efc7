"""What checksums cost: reading hidden states and packed codes, with and without.

Times are of the processor, so that other work on the machine does not count; files are in the
system's cache, where the checks weigh most.

    python -m benchmarks.checksum_cost --hidden HARVEST/layer-15 --codec CODEC
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.results_file import save_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.checksums import BlockChecksums, metadata_of
from bitcodec.storage import PackedWriter, open_packed

ROUNDS = 21


def main() -> None:
    """Measure, print and write benchmarks/results/checksum_cost.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=Path, required=True, help="hidden states, float16")
    parser.add_argument("--codec", type=Path, required=True, help="a codec of such states")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.hidden, BitCodec.load(arguments.codec), Path(folder))
    save_results("checksum_cost", figures)
    print(figures)


def measure(hidden: Path, codec: BitCodec, folder: Path) -> dict[str, Any]:
    """Return seconds of reading and encoding the rows, and gigabytes a second of each check."""
    states = torch.cat(list(HiddenBatches(hidden).batches(65_536))).half()
    save_file({"hidden": states}, folder / "plain.safetensors")
    save_file({"hidden": states}, folder / "checked.safetensors", metadata_of({"hidden": states}))
    packed = np.tile(codec.encode(states[:4096], refine="none"), (len(states) // 4096 + 1, 1))
    path, large = folder / "codes.npy", np.tile(packed, (8, 1))
    with PackedWriter(path, n_bits=codec.n_bits_, fingerprint=codec.fingerprint_) as writer:
        writer.append(large)
    assert torch.equal(read(folder / "plain.safetensors"), read(folder / "checked.safetensors"))
    plain = seconds(lambda: read(folder / "plain.safetensors"))
    checked = seconds(lambda: read(folder / "checked.safetensors"))
    summed = seconds(lambda: BlockChecksums.of(states))
    encoding = seconds(lambda: codec.encode(states[:4096], refine="none"), rounds=3)
    opened = seconds(lambda: open_packed(path))
    verified = seconds(lambda: open_packed(path)[1][:])
    row = seconds(lambda: open_packed(path)[1][-1])
    return {
        "rows": len(states),
        "read_seconds": plain,
        "read_and_check_seconds": checked,
        "encode_seconds_for_as_many_rows": encoding * len(states) / 4096,
        "crc32_gigabytes_per_second": states.numel() * 2 / 1e9 / summed,
        "packed_bytes": large.nbytes,
        "open_seconds": opened,
        "open_and_read_one_row_seconds": row,
        "open_and_verify_seconds": verified,
        "sha256_gigabytes_per_second": large.nbytes / 1e9 / (verified - opened),
    }


def read(path: Path) -> torch.Tensor:
    """Read all rows as `fit` and `encode` do."""
    return torch.cat(list(HiddenBatches(path).batches(4096)))


def seconds(work: Callable[[], Any], *, rounds: int = ROUNDS) -> float:
    """Return the median of the processor's seconds."""
    times = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
