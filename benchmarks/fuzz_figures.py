"""Inputs that the fuzzers have tried, summed over the records that their runs left.

python -m tests.fuzz codec --inputs 200000 --folder FOLDER
python -m benchmarks.fuzz_figures --random FOLDER ... --guided FOLDER ...
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from benchmarks.results_file import merge_results


def main() -> None:
    """Sum and write the figures to benchmarks/results/trust.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for kind in ("random", "guided"):
        parser.add_argument(f"--{kind}", type=Path, nargs="*", default=[], metavar="FOLDER")
    arguments = parser.parse_args()
    figures = {kind: summed(getattr(arguments, kind)) for kind in ("random", "guided")}
    merge_results("trust", ["fuzz"], figures)
    print(json.dumps(figures, indent=1))


def summed(folders: list[Path]) -> dict[str, dict[str, int]]:
    """Sum the records below folders by reader: inputs, those refused and read, and faults."""
    counts: dict[str, Counter[str]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("record.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        told = {kind: record.get(kind, 0) for kind in ("refused", "read", "fault")}
        told["inputs"] = sum(told.values())
        counts.setdefault(record["name"], Counter()).update(told)
    return {name: dict(sorted(counted.items())) for name, counted in sorted(counts.items())}


if __name__ == "__main__":
    main()
