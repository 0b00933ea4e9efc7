r"""Bits that are dead, dense or doubles after a fit on real hidden states.

Dead: on in fewer than one row in ten thousand. Dense: on in 40 to 60% of the rows. Doubles: bits
whose correlation with another is above .95. Counted on rows that were fitted and on rows of other
files, in the codes that the codec makes by default.

    python -m benchmarks.live_bits --packages DEBS --cache CACHE
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

from benchmarks.hidden_states import add_arguments, harvest_split
from benchmarks.results_file import merge_results
from bitcodec import BitCodec
from bitcodec.diagnosis import DENSE
from bitcodec.pairs import strongest_pairs
from bitcodec.revival import DEAD, DOUBLE
from bitcodec.statistics import BitStatistics

NAME = "live_bits"
PRESETS = ("default", "archive", "features")
COUNTED_ROWS = 50_000
"""Fitted rows whose codes are counted; of the others all."""


def main() -> int:
    """Fit and count what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--layer", type=int, default=15)
    parser.add_argument("--fit-rows", type=int, default=200_000, help="of --rows, fit on so many")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    arguments = parser.parse_args()
    split = harvest_split(
        arguments.packages,
        arguments.cache,
        n_fitted=arguments.rows,
        n_held_out=arguments.held_out_rows,
    )
    train, held_out = split.read(arguments.layer)
    for preset in arguments.presets:
        codec = BitCodec() if preset == "default" else BitCodec.preset(preset)
        fitted, began = train[: arguments.fit_rows], time.process_time()
        codec.fit(fitted)
        seconds = time.process_time() - began
        result = codec.evaluate(held_out)
        figures = {
            "layer": arguments.layer,
            "n_fitted": len(fitted),
            "fit_cpu_seconds": seconds,
            "n_bits": codec.n_bits_,
            "fvu": result.fvu,
            "entropy_bits": result.entropy_bits,
            "fitted": count(codec.encode(fitted[:COUNTED_ROWS]), n_bits=codec.n_bits_),
            "held_out": count(codec.encode(held_out), n_bits=codec.n_bits_),
        }
        merge_results(NAME, (preset,), figures)
        print(preset, figures, flush=True)
    return 0


def count(packed: np.ndarray, *, n_bits: int) -> dict[str, Any]:
    """Return the shares of the bits that are dead, dense, and doubles of others.

    Args:
        packed: (n, ceil(h / 8)) uint8.
        n_bits: h.
    """
    activity = BitStatistics.empty(n_bits).update(packed).activity
    nearest = strongest_pairs(packed, n_bits=n_bits, k=1).phi[:, 0]
    return {
        "n_rows": len(packed),
        "dead": float((activity < DEAD).mean()),
        "dense": float(((activity > DENSE[0]) & (activity < DENSE[1])).mean()),
        "doubles": float((nearest > DOUBLE).mean()),  # false where a bit has no partner
    }


if __name__ == "__main__":
    sys.exit(main())
