"""Fitting, encoding and reporting need no more memory for a file that does not fit into it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MIB = 2**20
CAP_BYTES = 160 * MIB
FILE_BYTES = 256 * MIB

CAPPED = f"""
import resource, sys
from pathlib import Path
import numpy as np
import torch
from bitcodec import BitCodec, batches
from bitcodec.storage import PackedWriter, open_packed

torch.set_num_threads(1)
batches.SHUFFLE_BUFFER_BYTES = 32 * {MIB}
path, output = Path(sys.argv[1]), Path(sys.argv[2])


def work(source, output):
    codec = BitCodec(n_bits=64, n_steps=30, batch_size=256).fit(source)
    writer = PackedWriter(output, n_bits=codec.n_bits_, fingerprint=codec.fingerprint_)
    with writer:
        for packed in codec.encode_batches(source):
            writer.append(packed)
    return codec, codec.report(source)


work(np.array(np.load(path, mmap_mode="r")[:2000]), output / "warm-up.npy")
status = Path("/proc/self/status").read_text()
used = 1024 * int(status.split("VmData:")[1].split()[0])
limit = used + {CAP_BYTES}
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

try:
    np.load(path)
except MemoryError:
    print("the file does not fit")
codec, report = work(path, output / "codes.npy")
header, packed = open_packed(output / "codes.npy")
first = np.array(np.load(path, mmap_mode="r")[:1000])
print(header.n_rows, bool((packed[:1000] == codec.encode(first)).all()))
print(report.evaluation.n_rows, len(report.features[0].top))
"""


def is_enforced() -> bool:
    """Tell whether this kernel bounds a process's data (Linux 4.7 and later do)."""
    code = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({64 * MIB}, {64 * MIB}))\n"
        f"bytearray({128 * MIB})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's RLIMIT_DATA")
def test_a_file_larger_than_the_memory_is_fitted_encoded_and_reported_on(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    assert is_enforced()
    states = hidden.astype(np.float16)
    n_repeats = -(-FILE_BYTES // states.nbytes)
    target = np.lib.format.open_memmap(
        tmp_path / "hidden.npy", "w+", np.float16, (n_repeats * len(states), states.shape[1])
    )
    for start in range(0, len(target), len(states)):
        target[start : start + len(states)] = states
    target.flush()
    done = subprocess.run(
        [sys.executable, "-c", CAPPED, str(tmp_path / "hidden.npy"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = ["the file does not fit", f"{len(target)} True", f"{len(target)} 5"]
    assert done.stdout.splitlines() == expected
