"""Which files of a harvest folder count: those that its manifest lists, and all of those.

`bitcodec_transformers.harvest` writes such folders. A file that is lost there would be rows that
are lost; a file that the manifest does not know is the leaving of an interrupted harvest.
"""

from __future__ import annotations

from pathlib import Path

from bitcodec.errors import FormatError
from bitcodec.files import read_json

_MANIFEST, _FORMAT = "harvest.json", "bitcodec-harvest"


def listed_shards(folder: Path, found: list[Path]) -> list[Path]:
    """Return the files of one layer's folder that count.

    Args:
        folder: `layer-*` of a harvest; any other folder's files all count.
        found: the files of hidden states in it.

    Raises:
        FormatError: the manifest lists a file that is not there, or is damaged.
    """
    manifest = folder.parent / _MANIFEST
    if not folder.name.startswith("layer-") or not manifest.is_file():
        return found
    content = read_json(manifest)
    if content.get("format") != _FORMAT:
        return found
    names = _names(manifest, content.get("shards"))
    lost = sorted(names - {path.stem for path in found})
    if lost:
        raise FormatError(f"{folder} has lost its shard {lost[0]}: restore it, or harvest again")
    return [path for path in found if path.stem in names]


def _names(manifest: Path, shards: object) -> set[str]:
    if isinstance(shards, list) and all(isinstance(shard, dict) for shard in shards):
        numbers = [shard.get("number") for shard in shards]
        if all(type(number) is int for number in numbers):
            return {f"{number:05d}" for number in numbers}
    raise FormatError(f"{manifest} is damaged: its shards have no numbers")
