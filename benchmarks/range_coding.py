"""Entropy coding of packed codes beside their entropy and general compressors.

Tables are made from the first rows and measured on the last ones, which they have not seen; rates
are CPU seconds of this process with one thread. Every method's rows are decoded and compared before
its figures count. The gap to better models is measured with float probabilities, without a coder.

    OMP_NUM_THREADS=1 python -m benchmarks.range_coding --packed demo/archive/codes.npy
"""

from __future__ import annotations

import argparse
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import save_results
from bitcodec.bits import unpack
from bitcodec.range_coding import (
    ProbabilityTable,
    Table,
    compress,
    decompress,
    learn_context,
)
from bitcodec.statistics import BitStatistics
from bitcodec.storage import open_packed


def main() -> None:
    """Run the benchmark and write benchmarks/results/range_coding.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packed", type=Path, default=Path("demo/archive/codes.npy"))
    parser.add_argument("--held-out", type=int, default=4672, help="last rows, to measure on")
    parser.add_argument("--profiles", type=int, nargs="*", default=[8, 16, 32, 64])
    parser.add_argument("--repeats", type=int, default=3, help="timings of each method")
    arguments = parser.parse_args()
    header, mapped = open_packed(arguments.packed)
    packed = np.asarray(mapped)
    known, unknown = packed[: -arguments.held_out], packed[-arguments.held_out :]
    counts = BitStatistics.empty(header.n_bits).update(known)
    results: dict[str, Any] = {
        "n_bits": header.n_bits,
        "n_rows_fitted": len(known),
        "n_rows_held_out": len(unknown),
        "held_out_entropy_bits": BitStatistics.empty(header.n_bits).update(unknown).entropy_bits,
        "all_rows_entropy_bits": BitStatistics.empty(header.n_bits).update(packed).entropy_bits,
        "unpacked_bits": 8 * packed.shape[1],
    }
    tables: dict[str, Table] = {"independent": ProbabilityTable.from_statistics(counts)}
    for n_profiles in arguments.profiles:
        tables[f"{n_profiles} profiles"] = ProbabilityTable.learn(
            known, n_bits=header.n_bits, n_profiles=n_profiles
        )
    tables["context"] = learn_context(known, n_bits=header.n_bits)
    for name, table in tables.items():
        for block_rows in (64, 256, 1024, 4096):
            row = measure(table, unknown, packed, block_rows, arguments.repeats)
            results[f"{name}, blocks of {block_rows}"] = row
            show(f"{name}, {block_rows}", row)
    results["own table, blocks of 1024"] = measure_own(packed, header.n_bits)
    show("all rows with their own table", results["own table, blocks of 1024"])
    results["zlib -9, blocks of 1024"] = {"bits_per_vector": zlib_bits(unknown)}
    show("zlib -9", results["zlib -9, blocks of 1024"])
    for name, bits in rival_models(known, unknown, header.n_bits).items():
        results[f"model only: {name}"] = {"bits_per_vector": bits}
        show(f"model only: {name}", {"bits_per_vector": bits})
    print(save_results("range_coding", results))


def measure(
    table: Table, unknown: np.ndarray, packed: np.ndarray, block_rows: int, repeats: int
) -> dict[str, float]:
    """Return bits a held-out vector, the table's bytes and rates over all rows."""
    data = compress(unknown, table, block_rows=block_rows, embed_table=False)
    assert np.array_equal(decompress(data, table=table), unknown)
    whole = compress(packed, table, block_rows=block_rows)
    assert np.array_equal(decompress(whole), packed)
    encoding = [
        rate(lambda: compress(packed, table, block_rows=block_rows), packed) for _ in range(repeats)
    ]
    decoding = [rate(lambda: decompress(whole), packed) for _ in range(repeats)]
    return {
        "bits_per_vector": 8 * len(data) / len(unknown),
        "table_bytes": len(table.to_bytes()),
        "encode_rows_per_second": statistics.median(encoding),
        "encode_rows_per_second_best": max(encoding),
        "decode_rows_per_second": statistics.median(decoding),
        "decode_rows_per_second_best": max(decoding),
    }


def measure_own(packed: np.ndarray, n_bits: int) -> dict[str, float]:
    """Return what rows cost with a table of their own counts, beside the sum of entropies."""
    counts = BitStatistics.empty(n_bits).update(packed)
    data = compress(packed, ProbabilityTable.from_statistics(counts), embed_table=False)
    bits = 8 * len(data) / len(packed)
    return {"bits_per_vector": bits, "ratio_to_entropy": bits / counts.entropy_bits}


def rate(work: Callable[[], object], packed: np.ndarray) -> float:
    """Return rows per CPU second."""
    began = time.process_time()
    work()
    return len(packed) / (time.process_time() - began)


def zlib_bits(packed: np.ndarray) -> float:
    """Return bits a vector in zlib's blocks of 1,024 rows."""
    blocks = [packed[start : start + 1024] for start in range(0, len(packed), 1024)]
    return 8 * sum(len(zlib.compress(block.tobytes(), 9)) for block in blocks) / len(packed)


def rival_models(known: np.ndarray, unknown: np.ndarray, n_bits: int) -> dict[str, float]:
    """Return bits a held-out vector under models that are not shipped, coder and table free."""
    first, second = unpack(known, n_bits=n_bits), unpack(unknown, n_bits=n_bits)
    p = (first.sum(axis=0) + 0.5) / (len(first) + 1)
    before = np.roll(np.concatenate([first, second]), 1, axis=0)
    after = np.roll(before, -2, axis=0)
    information = mutual_information(first)
    permutation = group_bits(information, p)
    return {
        "independent": cost(np.broadcast_to(p, second.shape), second),
        "previous row": context_cost(before, first, second, p),
        "previous and next row": context_cost(before + 2 * after, first, second, p),
        "bytes of correlated bits": group_cost(first[:, permutation], second[:, permutation]),
        "tree of pairs": tree_cost(information, first, second, p),
    }


def cost(p: np.ndarray, bits: np.ndarray) -> float:
    """Return the mean bits of rows under probabilities (n, h)."""
    clipped = np.clip(p, 1e-6, 1 - 1e-6)
    return float(-np.log2(np.where(bits == 1, clipped, 1 - clipped)).sum(axis=1).mean())


def context_cost(
    context: np.ndarray, first: np.ndarray, second: np.ndarray, p: np.ndarray
) -> float:
    """Return the bits when each bit's probability depends on a context of its own."""
    learned, tested = context[: len(first)], context[len(first) :]
    chosen = np.zeros(second.shape)
    for value in range(int(context.max()) + 1):
        inside = learned == value
        q = ((first * inside).sum(axis=0) + 4 * p) / (inside.sum(axis=0) + 4)
        chosen = np.where(tested == value, q, chosen)
    return cost(chosen, second)


def mutual_information(bits: np.ndarray) -> np.ndarray:
    """Return the mutual information of all pairs of bits, (h, h), 0 on the diagonal."""
    rows = bits.astype(np.float32)
    both = (rows.T @ rows / len(rows)).astype(np.float64)
    p = bits.mean(axis=0)
    total = np.zeros(both.shape)
    for left, right, joint in (
        (p, p, both),
        (p, 1 - p, p[:, None] - both),
        (1 - p, p, p[None] - both),
        (1 - p, 1 - p, 1 - p[:, None] - p[None] + both),
    ):
        safe = np.maximum(joint, 1e-12)
        total += np.where(joint > 1e-12, safe * np.log2(safe / (np.outer(left, right) + 1e-30)), 0)
    np.fill_diagonal(total, 0)
    return total


def group_bits(information: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return a permutation whose bytes hold correlated bits, greedily."""
    permutation: list[int] = []
    left = np.ones(len(p), dtype=bool)
    order: Iterator[int] = iter(np.argsort(-np.minimum(p, 1 - p)).tolist())
    while left.any():
        if len(permutation) % 8 == 0:
            chosen = next(bit for bit in order if left[bit])
            score = np.zeros(len(p))
        else:
            chosen = int(np.where(left, score, -1).argmax())
        permutation.append(int(chosen))
        left[chosen] = False
        score = score + information[chosen]
    return np.array(permutation)


def group_cost(first: np.ndarray, second: np.ndarray) -> float:
    """Return the bits with one learned 256-way table a byte, smoothed by its bits' product."""
    learned = np.packbits(first, axis=1, bitorder="little")
    tested = np.packbits(second, axis=1, bitorder="little")
    padded = np.zeros(8 * learned.shape[1])
    padded[: first.shape[1]] = (first.sum(axis=0) + 0.5) / (len(first) + 1)
    total = 0.0
    for column in range(learned.shape[1]):
        product = np.ones(1)
        for p in padded[8 * column : 8 * column + 8]:
            product = np.concatenate([product * (1 - p), product * p])
        counts = np.bincount(learned[:, column], minlength=256)
        q = (counts + 50 * product) / (len(learned) + 50)
        total -= float(np.log2(q[tested[:, column]]).mean())
    return total


def tree_cost(
    information: np.ndarray, first: np.ndarray, second: np.ndarray, p: np.ndarray
) -> float:
    """Return the bits when each bit depends on one other: the tree of Chow and Liu (1968)."""
    parents, best, root = np.zeros(len(p), dtype=np.int64), information[0].copy(), 0
    inside = np.zeros(len(p), dtype=bool)
    inside[root] = True
    while not inside.all():  # Prim's greatest spanning tree
        bit = int(np.where(inside, -1, best).argmax())
        inside[bit] = True
        better = ~inside & (information[bit] > best)
        parents[better], best[better] = bit, information[bit][better]
    context = np.concatenate([first, second])[:, parents]
    context[:, root] = 0
    return context_cost(context, first, second, p)


def show(name: str, figures: dict[str, float]) -> None:
    """Print one line for a method."""
    print(
        f"{name:<36}", "  ".join(f"{key} {value:.6g}" for key, value in figures.items()), flush=True
    )


if __name__ == "__main__":
    main()
