"""What a harvest tells its caller: while it runs and when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitcodec.files import PathLike
from bitcodec_transformers.manifest import Counts, HarvestSettings, Manifest, load_manifest
from bitcodec_transformers.shards import layer_folder


@dataclass(frozen=True)
class HarvestProgress:
    """How far a harvest is."""

    n_rows: int
    """Rows so far, those of the unfinished shard before its massive rows are dropped."""
    n_tokens: int
    """Tokens so far, those of earlier, interrupted calls included."""
    seconds: float
    """Time since this call began."""


@dataclass(frozen=True)
class HarvestSummary:
    """What a harvest folder holds."""

    folder: Path
    """The folder."""
    settings: HarvestSettings
    """How the rows were chosen."""
    model: dict[str, Any]
    """Name, origin, size and digest of the model."""
    n_dims: int
    """Width of the rows."""
    counts: Counts
    """What was read, kept and dropped."""
    median_norms: dict[int, float]
    """Median norm per layer."""
    n_shards: int
    """Shards per layer."""
    complete: bool
    """False while a harvest is under way or was interrupted."""
    seconds: float
    """Time the call took; 0 for a folder that was only read."""

    @property
    def n_rows(self) -> int:
        """Rows per layer."""
        return self.counts.n_rows

    def layer_folder(self, layer: int) -> Path:
        """Give the folder with one layer's hidden states, a source for `bitcodec`."""
        return layer_folder(self.folder, layer)


def read_harvest(folder: PathLike) -> HarvestSummary:
    """Read what a harvest folder says about itself.

    Args:
        folder: the folder that `harvest` wrote.

    Returns:
        The summary; `complete` is false for an interrupted harvest.

    Raises:
        FileError: the folder is no harvest.
        FormatError: its manifest is damaged or of a newer format.
    """
    path = Path(folder)
    return summarise(path, load_manifest(path), seconds=0.0)


def summarise(folder: Path, manifest: Manifest, *, seconds: float) -> HarvestSummary:
    """Turn a manifest into what the caller is told.

    Args:
        folder: where the manifest lies.
        manifest: its content.
        seconds: the time the call took.

    Returns:
        The summary.
    """
    return HarvestSummary(
        folder=folder,
        settings=manifest.settings,
        model=manifest.model,
        n_dims=manifest.n_dims,
        counts=manifest.counts,
        median_norms=manifest.median_norms,
        n_shards=len(manifest.shards),
        complete=manifest.complete,
        seconds=seconds,
    )
