"""Archives of packed codes in Zarr, near their entropy and readable row by row.

>>> from bitcodec_zarr import PackedArchive
>>> PackedArchive.__name__
'PackedArchive'

An archive is a Zarr v3 array of uint8 with the codec `bitcodec.bernoulli`, in a local folder, in
memory or at any URL of fsspec or obstore. It is read with this package alone; the codec that made
the codes is needed only to turn them into floats.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bitcodec.extras import import_extra

if TYPE_CHECKING:
    from bitcodec_zarr.archive import PackedArchive, WrittenShard, open_archive
    from bitcodec_zarr.array_codec import BernoulliCodec
    from bitcodec_zarr.continuing import continue_archive
    from bitcodec_zarr.groups import consolidate_archives, open_archives
    from bitcodec_zarr.protocol import Codec

__all__ = [
    "BernoulliCodec",
    "Codec",
    "PackedArchive",
    "WrittenShard",
    "consolidate_archives",
    "continue_archive",
    "open_archive",
    "open_archives",
]

# Imported on first use: zarr takes a second, and a missing one names the extra that installs it.
_LAZY = {
    "BernoulliCodec": "bitcodec_zarr.array_codec",
    "Codec": "bitcodec_zarr.protocol",
    "PackedArchive": "bitcodec_zarr.archive",
    "WrittenShard": "bitcodec_zarr.archive",
    "consolidate_archives": "bitcodec_zarr.groups",
    "continue_archive": "bitcodec_zarr.continuing",
    "open_archive": "bitcodec_zarr.archive",
    "open_archives": "bitcodec_zarr.groups",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'bitcodec_zarr' has no attribute {name!r}")
    import_extra("zarr", extra="zarr")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
