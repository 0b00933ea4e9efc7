r"""What side bytes buy, and whether half of them would do: recall with the same codes.

The dense codecs of the rate-distortion benchmark store a factor and a length of two bytes each
beside a row's bits. Here the codes stay as they are and the side numbers are made coarser (one byte
on a scale of 256 equal ratios) or taken away (a length follows from the code, a factor is the same
for all rows). Recall is that of the 10 nearest held-out rows by L2 in standardised coordinates.

    python -m benchmarks.side_bytes --packages DEBS --cache CACHE --embeddings CACHE2 \
        --codecs CODECS
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.rate_distortion import K, Rows, load, parse_arguments
from benchmarks.rate_distortion_codecs import DENSE_BITS
from benchmarks.results_file import merge_results
from bitcodec import BitCodec
from bitcodec.metrics import recall
from bitcodec_faiss import AsymmetricIndex

NAME = "side_bytes"
SIDE = slice(-4, None)
"""Where a packed row has its side bytes."""


def main() -> int:
    """Merge recall by number of side bytes into benchmarks/results/side_bytes.json."""
    arguments = parse_arguments()
    for dataset in arguments.datasets:
        rows = Rows.of(*load(dataset, arguments))
        for bits in DENSE_BITS:
            folder = arguments.codecs / dataset / f"dense-{bits}"
            if folder.is_dir():
                figures = measure(BitCodec.load(folder), rows)
                merge_results(NAME, (dataset, f"{bits} bits a dimension"), figures)
                print(dataset, bits, {name: round(value, 4) for name, value in figures.items()})
    return 0


def measure(codec: BitCodec, rows: Rows) -> dict[str, float]:
    """Return recall by what is kept beside the bits."""
    packed = codec.encode(rows.standard.apply(rows.base))
    factor, length = np.ascontiguousarray(packed[:, SIDE]).view("<f2").astype(np.float64).T
    implied = length_of_code(codec, packed, length)
    same = np.full_like(factor, np.median(factor))
    kept = {
        "factor and length, 2 + 2 bytes": (factor, length),
        "factor and length, 1 + 1 bytes": (coarse(factor), coarse(length)),
        "factor, 2 bytes": (factor, implied * factor),
        "factor, 1 byte": (coarse(factor), implied * coarse(factor)),
        "nothing": (same, implied * same),
    }
    queries = rows.standard.apply(rows.queries)
    return {
        name: recall(found_with(codec, packed, queries, numbers), rows.exact)
        for name, numbers in kept.items()
    }


def length_of_code(codec: BitCodec, packed: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the lengths that codes imply at a factor of 1, in the unit of the stored ones."""
    plain = replaced(packed, np.ones(len(packed)), length)
    estimate = np.linalg.norm(codec.decode(plain) - codec.decode(blank(packed)), axis=1)
    unit = np.median(np.linalg.norm(codec.decode(packed) - codec.decode(blank(packed)), axis=1))
    return np.asarray(estimate / unit * np.median(length))


def blank(packed: np.ndarray) -> np.ndarray:
    """Return rows that decode to the mean."""
    return replaced(packed, np.zeros(len(packed)), np.zeros(len(packed)))


def replaced(packed: np.ndarray, factor: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return packed rows with other side numbers."""
    rows = packed.copy()
    rows[:, SIDE] = np.stack([factor, length], axis=1).astype("<f2").view(np.uint8)
    return rows


def coarse(numbers: np.ndarray) -> np.ndarray:
    """Round to 256 values of equal ratios between the least and the greatest."""
    low, high = np.log(np.maximum(numbers, 1e-3).min()), np.log(numbers.max())
    step = (high - low) / 255
    return np.asarray(
        np.exp(low + step * np.rint((np.log(np.maximum(numbers, 1e-3)) - low) / step))
    )


def found_with(
    codec: BitCodec, packed: np.ndarray, queries: np.ndarray, numbers: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the rows nearest to each query, (q, K), by their scores with other side numbers."""
    index = AsymmetricIndex(codec, metric="l2")
    index.add_packed(replaced(packed, *numbers))
    return index.search(queries, k=K).ids


if __name__ == "__main__":
    sys.exit(main())
