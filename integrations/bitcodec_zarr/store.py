"""What an archive asks of its store: shards that are whole, and errors of one kind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c  # a dependency of zarr
import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.sync import sync
from zarr.errors import ContainsArrayError, ContainsGroupError
from zarr.storage import LocalStore, StorePath

from bitcodec.errors import BitcodecError, ConfigError, FileError, FormatError
from bitcodec.locks import nobody_writes_into, writing_alone, writing_into
from bitcodec_zarr.metadata import ArchiveHeader

_NO_CHUNK = 2**64 - 1
_REMEDY = "restore it from a copy, or encode anew"
_SHARDS_AT_ONCE = 8
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
    except ConfigError as error:  # what is stored does not suit the codec
        raise FormatError(f"{what} is damaged or foreign: {error}") from error
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


@contextlib.contextmanager
def appending(array: zarr.Array[Any]) -> Iterator[None]:
    """Keep other processes from appending to an archive in a folder while the block runs.

    What a killed writer left there is removed, unless others are writing shards. Stores elsewhere
    have no lock.

    Raises:
        FileError: another process is appending, or the folder cannot be written to.
    """
    folder = _folder_of(array)
    if folder is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        with writing(array.store_path):
            if stack.enter_context(writing_alone(folder)):
                _clear_leavings(folder)
        yield


@contextlib.contextmanager
def writing_shards(array: zarr.Array[Any]) -> Iterator[None]:
    """Keep what is being written into an archive from being taken for a killed writer's."""
    folder = _folder_of(array)
    with contextlib.nullcontext() if folder is None else writing_into(folder):
        yield


def _folder_of(array: zarr.Array[Any]) -> Path | None:
    store = array.store_path.store
    return store.root / array.store_path.path if isinstance(store, LocalStore) else None


def _clear_leavings(folder: Path) -> None:
    with nobody_writes_into(folder) as is_alone:
        for leaving in folder.rglob("*.partial") if is_alone else ():  # of zarr, which renames them
            leaving.unlink(missing_ok=True)


def require_shards(array: zarr.Array[Any], shards: Iterable[int], *, n_chunks: int) -> None:
    """Raise unless every one of some shards is stored, with an index that stays within it.

    Args:
        array: the Zarr array.
        shards: their numbers.
        n_chunks: chunks of a shard.

    Raises:
        FormatError: one is not.
    """
    sync(_require_shards(array, shards, n_chunks))


def read_rows(
    array: zarr.Array[Any],
    header: ArchiveHeader,
    decode: Callable[[bytes], np.ndarray],
    *,
    start: int,
    stop: int,
) -> np.ndarray:
    """Read rows, at least one: of every shard its index, and then the chunks in one request.

    Zarr's own way would read each index again, and give zeros for what is missing.

    Args:
        array: the Zarr array.
        header: of the archive.
        decode: a chunk's bytes to (chunk_rows, row_bytes) uint8.
        start: the first row.
        stop: the row after the last.

    Raises:
        FormatError: a shard or a chunk is missing or damaged.
    """
    n_chunks = header.shard_rows // header.chunk_rows
    first, last = start // header.chunk_rows, -(-stop // header.chunk_rows)

    def decode_at(path: StorePath, number: int, data: bytes) -> np.ndarray:
        try:
            return decode(data)
        except ValueError as error:
            place = number * header.chunk_rows
            end = min(place + header.chunk_rows, header.n_rows)
            raise FormatError(
                f"{path} is damaged: rows {place} to {end} are not those that were written; "
                f"{_REMEDY}"
            ) from error

    async def read_shard(shard: int) -> list[np.ndarray]:
        path, before = shard_path(array, shard), shard * n_chunks
        index = await _shard_index(path, n_chunks)
        wanted = index[max(first - before, 0) : last - before]
        if (wanted == _NO_CHUNK).any():
            raise FormatError(f"{path} has lost a chunk: restore it from a copy")
        begin, end = int(wanted[:, 0].min()), int(wanted.sum(axis=1).max())
        found = await path.get(byte_range=RangeByteRequest(begin, end))
        content = b"" if found is None else found.to_bytes()
        if len(content) != end - begin:
            raise FormatError(f"{path} was shortened while it was read: read it again")
        places = [(offset - begin, offset - begin + size) for offset, size in wanted.tolist()]
        number = max(first, before)
        chunks = (
            asyncio.to_thread(decode_at, path, number + place, content[low:high])
            for place, (low, high) in enumerate(places)
        )
        return await asyncio.gather(*chunks)

    async def read(shards: range) -> list[list[np.ndarray]]:
        return await asyncio.gather(*(read_shard(shard) for shard in shards))

    # One way into Zarr's event loop for several shards: each takes a good part of a millisecond.
    every = range(first // n_chunks, -(-last // n_chunks))
    groups = (every[i : i + _SHARDS_AT_ONCE] for i in range(0, len(every), _SHARDS_AT_ONCE))
    chunks = [chunk for group in groups for shard in sync(read(group)) for chunk in shard]
    rows = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    return rows[start - first * header.chunk_rows : stop - first * header.chunk_rows]


async def _require_shards(array: zarr.Array[Any], shards: Iterable[int], n_chunks: int) -> None:
    wanted = iter(shards)
    while paths := [shard_path(array, index) for index in itertools.islice(wanted, 64)]:
        await asyncio.gather(*(_shard_index(path, n_chunks) for path in paths))


async def _shard_index(path: StorePath, n_chunks: int) -> np.ndarray:
    """Read (n_chunks, 2) uint64: where in a shard each chunk begins, and its length.

    Raises:
        FormatError: the shard is not there, its index is damaged, or a chunk is not within it.
    """
    request = SuffixByteRequest(16 * n_chunks + 4)  # and a CRC32C
    try:
        size = await path.store.getsize(path.path)
        found = await path.get(byte_range=request)
    except FileNotFoundError:
        found = None
    if found is None:
        raise FormatError(f"the archive has lost {path}: restore it from a copy")
    content = found.to_bytes()
    if len(content) != request.suffix:
        raise FormatError(
            f"{path} has {size} bytes, too few for a shard: it is truncated; {_REMEDY}"
        )
    if google_crc32c.value(content[:-4]) != int.from_bytes(content[-4:], "little"):
        raise FormatError(f"{path} is damaged: the checksum of its index does not match; {_REMEDY}")
    index = np.frombuffer(content, "<u8", 2 * n_chunks).reshape(-1, 2)
    offsets, lengths = index[(index != _NO_CHUNK).any(axis=1)].T
    room = size - len(content)
    if (offsets > room).any() or (lengths > room - np.minimum(offsets, room)).any():
        raise FormatError(f"{path} has chunks outside itself: it is damaged; {_REMEDY}")
    return index


def with_metadata(array: zarr.Array[Any], metadata: Any) -> zarr.Array[Any]:
    """Return the array as if its metadata were others; the store is left as it is."""
    inside = array.async_array
    return zarr.Array(
        zarr.AsyncArray(metadata=metadata, store_path=inside.store_path, config=inside.config)
    )


def shard_path(array: zarr.Array[Any], shard: int) -> StorePath:
    """Return where a shard is stored."""
    return array.store_path / array.metadata.encode_chunk_key((shard, 0))
