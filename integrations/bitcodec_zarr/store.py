"""What an archive asks of its store: shards that are whole, and errors of one kind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import zarr
from zarr.abc.store import SuffixByteRequest
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError, ContainsGroupError
from zarr.storage import StorePath

from bitcodec.errors import BitcodecError, FileError, FormatError
from bitcodec_zarr.metadata import ArchiveHeader

CLIENTS = {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "obstore"}
"""Packages that talk to object stores."""


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what Zarr raises when it reads into errors of bitcodec.

    Args:
        what: is read, for messages.

    Raises:
        FileError: the store cannot be read.
        FormatError: it holds what Zarr cannot decode.
    """
    # Zarr has no one error for bad bytes: whatever it raises on them means a bad archive.
    try:
        yield
    except (BitcodecError, MemoryError):
        raise
    except OSError as error:
        raise FileError(f"cannot read {what}: {error}") from error
    except Exception as error:
        if _is_of_a_client(error):
            raise FileError(f"cannot read {what}: {error}") from error
        raise FormatError(f"{what} is damaged or foreign: {error}") from error


@contextlib.contextmanager
def writing(store: Any) -> Iterator[None]:
    """Turn what Zarr raises when it writes into errors of bitcodec.

    Args:
        store: what is written, for messages.

    Raises:
        FileError: something exists there, or the store cannot be written.
    """
    try:
        yield
    except BitcodecError:
        raise
    except (ContainsArrayError, ContainsGroupError) as error:
        raise FileError(f"{store} exists: choose another place or allow overwriting it") from error
    except OSError as error:
        raise FileError(f"cannot write {store}: {error}") from error
    except Exception as error:
        if _is_of_a_client(error):
            raise FileError(f"cannot write {store}: {error}") from error
        raise


def _is_of_a_client(error: Exception) -> bool:
    """Tell an object store that is away, whose clients raise errors that are no OSError."""
    return type(error).__module__.split(".")[0] in CLIENTS


def require_shards(array: zarr.Array[Any], shards: Iterable[int]) -> None:
    """Raise unless every one of some shards is stored.

    Raises:
        FormatError: one is not.
    """

    async def exist(paths: list[StorePath]) -> list[bool]:
        return await asyncio.gather(*(path.exists() for path in paths))

    wanted = iter(shards)
    while paths := [_path(array, index) for index in itertools.islice(wanted, 64)]:
        for path, found in zip(paths, sync(exist(paths)), strict=True):
            if not found:
                raise FormatError(f"the archive has lost {path}: restore it from a copy")


def require_chunk(array: zarr.Array[Any], header: ArchiveHeader, *, row: int) -> None:
    """Raise unless the index of a row's shard has the row's chunk, within the shard.

    Raises:
        FormatError: it has not.
    """
    path = _path(array, row // header.shard_rows)
    n_chunks = header.shard_rows // header.chunk_rows
    size = sync(path.store.getsize(path.path))
    request = SuffixByteRequest(16 * n_chunks + 4)  # and a CRC32C, which zarr has checked
    found = sync(path.get(byte_range=request))
    index = b"" if found is None else found.to_bytes()
    if len(index) == request.suffix:
        chunk = row % header.shard_rows // header.chunk_rows
        offset, length = struct.unpack_from("<QQ", index, 16 * chunk)
        if offset + length <= size - len(index):
            return
    raise FormatError(f"{path} has lost the chunk of row {row}: restore it from a copy")


def with_metadata(array: zarr.Array[Any], metadata: Any) -> zarr.Array[Any]:
    """Return the array as if its metadata were others; the store is left as it is."""
    inside = array.async_array
    return zarr.Array(
        zarr.AsyncArray(metadata=metadata, store_path=inside.store_path, config=inside.config)
    )


def _path(array: zarr.Array[Any], shard: int) -> StorePath:
    return array.store_path / array.metadata.encode_chunk_key((shard, 0))
