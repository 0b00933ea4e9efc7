"""Several archives in one Zarr group, opened by one read of its consolidated metadata."""

from __future__ import annotations

import warnings
from typing import Any

import zarr
from zarr.errors import ZarrUserWarning

from bitcodec.errors import FormatError
from bitcodec_zarr.archive import PackedArchive
from bitcodec_zarr.store import reading, writing


def consolidate_archives(store: Any, *, storage_options: dict[str, Any] | None = None) -> None:
    """Write the metadata of all archives of a group into the group's own.

    One object then says how long every archive is: what is appended later is seen by
    `open_archives` after the next call, in all archives at once.

    Args:
        store: the folder, URL of fsspec or Zarr store that the archives lie in.
        storage_options: for fsspec.

    Raises:
        FileError: the store cannot be written.
    """
    with writing(store), warnings.catch_warnings():
        # Consolidated metadata are an extension of version 3 of Zarr, as is our codec.
        warnings.simplefilter("ignore", ZarrUserWarning)
        group = zarr.open_group(store, mode="a", zarr_format=3, storage_options=storage_options)
        zarr.consolidate_metadata(group.store_path)


def open_archives(
    store: Any, *, storage_options: dict[str, Any] | None = None
) -> dict[str, PackedArchive]:
    """Open the archives of a group for reading.

    Args:
        store: where `consolidate_archives` wrote.
        storage_options: for fsspec.

    Returns:
        The archives by name, as they were when the metadata were consolidated.

    Raises:
        FileError: there is no group, or it cannot be read.
        FormatError: it has no consolidated metadata, or an array of it is no archive.
    """
    with reading(f"the group {store}"):
        group = zarr.open_group(store, mode="r", zarr_format=3, storage_options=storage_options)
        if group.metadata.consolidated_metadata is None:
            raise FormatError(f"{store} has no consolidated metadata: call consolidate_archives")
        return {name: PackedArchive(array) for name, array in sorted(group.arrays())}
