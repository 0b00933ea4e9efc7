"""How many bits of the codes differ where sameness is not promised.

Codes of the same float32 rows are the same for any batch, order and number of threads; that is
checked here first. Then the share of bits that differ from the codes of a plain run is measured

- where the rows, means of three neighbouring states, were stored in another dtype before;
- where torch and MKL use other instruction sets of the processor (each in a process of its own).

    python -m benchmarks.numbers --hidden HARVEST --codecs CODEC CODEC
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results_file import merge_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.bits import row_bytes, unpack
from bitcodec.config import Refine

INSTRUCTIONS = {
    "AVX-512": {"ATEN_CPU_CAPABILITY": "avx512", "MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE4.2": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
EFFORTS: tuple[Refine, ...] = ("none", "fast")


def main() -> None:
    """Measure and write benchmarks/results/trust.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=Path, required=True, help="hidden states, not fitted on")
    parser.add_argument("--codecs", type=Path, nargs="+", required=True, help="fitted codecs")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--encode-to", type=Path, help="only write the codes, for a process of it")
    arguments = parser.parse_args()
    # States of a model that ran in bfloat16 lose nothing there: means of neighbours have digits.
    states = next(iter(HiddenBatches(arguments.hidden).batches(arguments.rows + 2)))
    rows = (states[:-2] + states[1:-1] + states[2:]) / 3
    for folder in arguments.codecs:
        codec = BitCodec.load(folder, device="cpu")
        if arguments.encode_to is not None:
            np.save(arguments.encode_to, encode_all(codec, rows))
            return
        figures = measure(codec, rows, elsewhere(arguments, folder))
        print(folder.name, figures, flush=True)
        merge_results("trust", ["numbers", folder.name], figures)


def encode_all(codec: BitCodec, rows: Any) -> np.ndarray:
    """Encode at every effort: (efforts, n, ceil(h / 8))."""
    width = row_bytes(codec.n_bits_)
    return np.stack([codec.encode(rows, refine=effort)[:, :width] for effort in EFFORTS])


def elsewhere(arguments: argparse.Namespace, folder: Path) -> dict[str, np.ndarray]:
    """Encode in processes that use other instructions."""
    codes = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, variables in INSTRUCTIONS.items():
            path = Path(scratch) / f"{name}.npy"
            command = [sys.executable, "-m", "benchmarks.numbers", "--encode-to", str(path)]
            command += ["--hidden", str(arguments.hidden), "--rows", str(arguments.rows)]
            environment = os.environ | variables
            subprocess.run([*command, "--codecs", str(folder)], env=environment, check=True)
            codes[name] = np.load(path)
    return codes


def measure(codec: BitCodec, rows: torch.Tensor, others: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the share of bits that differ, by cause and effort."""
    plain = encode_all(codec, rows)
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = [codec.encode(rows[order[k : k + 37]]) for k in range(0, len(rows), 37)]
    width = row_bytes(codec.n_bits_)
    again = codec.encode(rows)[order, :width]
    assert np.array_equal(np.concatenate(shuffled)[:, :width], again), "a batch made a difference"
    stored = {
        "rows stored in float16": encode_all(codec, rows.half()),
        "rows stored in bfloat16": encode_all(codec, rows.bfloat16()),
        "rows stored in float64": encode_all(codec, rows.double()),
    }
    return {
        name: {
            effort: share(codes[number], plain[number], n_bits=codec.n_bits_)
            for number, effort in enumerate(EFFORTS)
        }
        for name, codes in (stored | others).items()
    }


def share(first: np.ndarray, second: np.ndarray, *, n_bits: int) -> dict[str, float]:
    """Return the shares of bits, and of rows, in which codes differ."""
    differ = unpack(first, n_bits=n_bits) != unpack(second, n_bits=n_bits)
    return {"bits": float(differ.mean()), "rows": float(differ.any(axis=1).mean())}


if __name__ == "__main__":
    main()
