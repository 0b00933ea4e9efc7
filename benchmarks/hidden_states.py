"""Hidden states of SmolLM2 on the text of Debian packages, harvested once and kept in a cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.passages import read_excerpts
from bitcodec.batches import HiddenBatches
from bitcodec_transformers import LanguageModel, harvest, load_model

MODEL = "smollm2-135m"
LAYERS = (8, 15, 25)
TEXTS = ("linux-doc-6.1", "python3.11-doc", "perl-doc")
"""Packages whose files are read, in equal shares of the rows."""


@dataclass(frozen=True)
class Split:
    """Where hidden states to fit on lie, and those of other files to measure on."""

    fitted: Path
    """A harvest."""
    held_out: Path
    """Another."""

    def read(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of one layer to fit on and to measure on, (n, d) float32."""
        return _rows(self.fitted / f"layer-{layer}"), _rows(self.held_out / f"layer-{layer}")


def harvest_split(
    packages: Path,
    cache: Path,
    *,
    n_fitted: int,
    n_held_out: int,
    model: LanguageModel | None = None,
    layers: Sequence[int] = LAYERS,
) -> Split:
    """Harvest layers, or find them in the cache; an interrupted harvest is resumed.

    Args:
        packages: a folder of the packages in `TEXTS`; see `benchmarks.passages`.
        cache: the folder that gets the harvests.
        n_fitted: rows to fit on.
        n_held_out: rows of other files.
        model: whose states; `MODEL` by default.
        layers: its blocks.
    """
    fitted, kept_apart = read_excerpts(packages, TEXTS)
    parts = (("fitted", fitted, n_fitted), ("held_out", kept_apart, n_held_out))
    cache.mkdir(parents=True, exist_ok=True)
    model = model or load_model(MODEL)
    for name, texts, n_rows in parts:
        harvest(texts, model=model, layers=layers, output=cache / name, max_rows=n_rows)
    return Split(cache / "fitted", cache / "held_out")


def _rows(folder: Path) -> np.ndarray:
    return np.concatenate([batch.numpy() for batch in HiddenBatches(folder).batches(2**16)])


def main() -> None:
    """Harvest and say where the rows lie."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args()
    print(
        harvest_split(
            arguments.packages,
            arguments.cache,
            n_fitted=arguments.rows,
            n_held_out=arguments.held_out_rows,
        )
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which rows a benchmark works on."""
    parser.add_argument("--packages", type=Path, required=True, help="folder of Debian packages")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps hidden states")
    parser.add_argument("--rows", type=int, default=216_000, help="rows to fit on")
    parser.add_argument("--held-out-rows", type=int, default=21_600, help="rows of other files")


if __name__ == "__main__":
    main()
