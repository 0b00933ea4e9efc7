"""What a harvest folder says about itself: harvest.json."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from bitcodec.errors import ConfigError, FormatError
from bitcodec.files import read_json, write_json
from bitcodec.json_fields import from_fields
from bitcodec.sealed_json import sealed, unsealed

MANIFEST_FILE = "harvest.json"
FORMAT = "bitcodec-harvest"
FORMAT_VERSION = 2
"""Version 2 added the seal and checksums of what it lists; version 1 is read without them."""
_LARGEST = 2**48

_Key = TypeVar("_Key")

MassivePolicy = Literal["drop", "refuse", "keep"]
StateDtype = Literal["float16", "bfloat16", "float32"]
FileFormat = Literal["safetensors", "npy"]

_DROP_REASONS = ("special", "first", "massive", "past_max_rows")


@dataclass(frozen=True)
class HarvestSettings:
    """Everything that decides which rows a harvest writes and how."""

    layers: tuple[int, ...]
    """Blocks whose output is kept, from 0, ascending."""
    context_length: int = 256
    """Tokens per window, special tokens included."""
    drop_first: int = 1
    """Tokens at window positions below this are dropped: position 0 is an attention sink."""
    massive: float = 10.0
    """A row is massive when its norm exceeds this many times its layer's median norm."""
    massive_policy: MassivePolicy = "drop"
    """What becomes of massive rows; a row dropped in one layer is dropped in all."""
    dtype: StateDtype = "float16"
    """Element type on disk."""
    file_format: FileFormat = "safetensors"
    """Kind of the files with hidden states; numpy has no bfloat16."""
    shard_rows: int = 65_536
    """About how many rows a shard holds; one shard at a time is in memory."""
    batch_tokens: int = 2048
    """Tokens the model reads at once, padding included."""
    max_rows: int | None = None
    """Stop after exactly so many rows."""

    def __post_init__(self) -> None:
        self._check_layers()
        for name in ("context_length", "shard_rows", "batch_tokens", "max_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.drop_first < self.context_length:
            raise ConfigError(
                f"drop_first must be between 0 and context_length - 1 = "
                f"{self.context_length - 1}, got {self.drop_first}"
            )
        if not self.massive >= 1:
            raise ConfigError(
                f"massive must be at least 1 (times the median norm), got {self.massive}: "
                "use massive_policy='keep' to keep every row"
            )
        self._check_choices()

    def _check_layers(self) -> None:
        layers = tuple(sorted(self.layers))
        if not layers or len(set(layers)) != len(layers) or layers[0] < 0:
            raise ConfigError(
                f"layers must be one or more different block numbers from 0, got "
                f"{list(self.layers)}"
            )
        object.__setattr__(self, "layers", layers)

    def _check_choices(self) -> None:
        choices = {
            "massive_policy": MassivePolicy,
            "dtype": StateDtype,
            "file_format": FileFormat,
        }
        for name, choice in choices.items():
            if getattr(self, name) not in get_args(choice):
                known = ", ".join(get_args(choice))
                raise ConfigError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.file_format == "npy" and self.dtype == "bfloat16":
            raise ConfigError(
                "numpy has no bfloat16: use file_format='safetensors', or dtype='float32' or "
                "'float16' with .npy"
            )

    def to_json(self) -> dict[str, Any]:
        """Give the settings as JSON types."""
        return dataclasses.asdict(self) | {"layers": list(self.layers)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> HarvestSettings:
        """Read settings back.

        Raises:
            ConfigError: a key is unknown, or a value out of range.
        """
        known = [entry.name for entry in dataclasses.fields(cls)]
        if unknown := sorted(set(content) - set(known)):
            raise ConfigError(f"unknown setting {unknown[0]!r}: known are {', '.join(known)}")
        defaults = cls(layers=(0,)).to_json()
        return from_fields(cls, defaults | content)


@dataclass(frozen=True)
class Counts:
    """What a harvest read, kept and dropped: `n_tokens` is the sum of the rows and the drops."""

    n_documents: int = 0
    """Documents read, the empty ones included."""
    n_empty_documents: int = 0
    """Documents without a token."""
    n_tokens: int = 0
    """Tokens given to the model, padding excluded."""
    n_rows: int = 0
    """Rows written."""
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_DROP_REASONS, 0))
    """Tokens not written, each under the first reason of these that holds."""
    massive_by_layer: dict[int, int] = field(default_factory=dict)
    """Massive rows found in each layer; one row may be massive in several."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            n_documents=self.n_documents + other.n_documents,
            n_empty_documents=self.n_empty_documents + other.n_empty_documents,
            n_tokens=self.n_tokens + other.n_tokens,
            n_rows=self.n_rows + other.n_rows,
            dropped=_sum(self.dropped, other.dropped),
            massive_by_layer=_sum(self.massive_by_layer, other.massive_by_layer),
        )


@dataclass(frozen=True)
class Shard:
    """One finished unit of work."""

    number: int
    """Names its files: 00000, 00001, ..."""
    n_rows: int
    """Its rows."""
    documents_sha256: str
    """Digest of all documents read up to its end."""


@dataclass(frozen=True)
class Manifest:
    """The content of harvest.json."""

    settings: HarvestSettings
    """How the rows were chosen."""
    model: dict[str, Any]
    """Name, origin, size and digest of the model."""
    versions: dict[str, str]
    """Versions of the libraries at work."""
    n_dims: int
    """Width of the rows."""
    median_norms: dict[int, float] = field(default_factory=dict)
    """Median norm of each layer's rows in the first unit of work; fixed from then on."""
    counts: Counts = field(default_factory=Counts)
    """Totals."""
    documents_bytes: int = 0
    """Valid length of documents.jsonl."""
    documents_sha256: str = ""
    """Digest of all documents read."""
    documents_crc32: int | None = None
    """CRC-32 of the valid part of documents.jsonl; None in a harvest of format 1."""
    shards: tuple[Shard, ...] = ()
    """The finished shards, in order."""
    complete: bool = False
    """Whether the harvest came to its end."""

    def to_json(self) -> dict[str, Any]:
        """Give the manifest as JSON types; layers become string keys."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, "complete": self.complete}
        fields = dataclasses.asdict(self) | {"settings": self.settings.to_json()}
        fields["shards"] = list(fields["shards"])
        return sealed(content | fields)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Manifest:
        """Read a manifest back.

        Raises:
            KeyError, TypeError, ValueError: it is not as described.
        """
        told = {"documents_crc32": None} | content  # which format 1 did not say
        values = {entry.name: told[entry.name] for entry in dataclasses.fields(cls)}
        values["settings"] = HarvestSettings.from_json(told["settings"])
        values["median_norms"] = _integer_keys(told["median_norms"])
        values["counts"] = _counts_of(told["counts"])
        values["shards"] = tuple(from_fields(Shard, shard) for shard in told["shards"])
        manifest = cls(**values)
        manifest._check()
        return manifest

    def _check(self) -> None:
        """Raise ValueError unless sizes and numbers are what a harvest can have."""
        sizes = [shard.n_rows for shard in self.shards]
        numbers = [self.n_dims, self.documents_bytes, self.counts.n_documents, *sizes]
        if any(type(n) is not int or not 0 <= n < _LARGEST for n in [*numbers, sum(sizes)]):
            raise ValueError(f"a size is no whole number from 0 to {_LARGEST}")
        if [shard.number for shard in self.shards] != list(range(len(sizes))):
            raise ValueError("the shards are not numbered from 0 on")
        if not isinstance(self.model, dict) or not isinstance(self.complete, bool):
            raise ValueError("model must be an object, complete true or false")
        if not all(_is_finite(norm) for norm in self.median_norms.values()):
            raise ValueError("a median norm is no finite number")

    def save(self, folder: Path) -> None:
        """Write harvest.json, replacing the old one at once."""
        write_json(folder / MANIFEST_FILE, self.to_json(), overwrite=True)


def load_manifest(folder: Path) -> Manifest:
    """Read harvest.json.

    Args:
        folder: a harvest folder.

    Returns:
        The manifest.

    Raises:
        FileError: the folder holds no harvest.json.
        FormatError: the file is foreign, damaged or of a newer format.
    """
    path = folder / MANIFEST_FILE
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise FormatError(f"{path} is not the manifest of a harvest (format must be {FORMAT!r})")
    version = content.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise FormatError(
            f"{path} has format_version {version!r:.40}, this bitcodec reads {FORMAT_VERSION}: "
            "upgrade bitcodec, or harvest again"
        )
    if version > 1:
        content = unsealed(content, where=path)
    try:
        return Manifest.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path} is damaged ({error!r:.300}): harvest again") from error


def _sum(first: dict[_Key, int], second: dict[_Key, int]) -> dict[_Key, int]:
    keys = [*first, *(key for key in second if key not in first)]
    return {key: first.get(key, 0) + second.get(key, 0) for key in keys}


def _counts_of(content: dict[str, Any]) -> Counts:
    """Read counts back; raises ValueError where one is no whole number."""
    found = Counts(
        **content | {"massive_by_layer": _integer_keys(content["massive_by_layer"])},
    )
    numbers = [value for value in dataclasses.astuple(found) if not isinstance(value, dict)]
    numbers += [*found.dropped.values(), *found.massive_by_layer.values()]
    if any(type(number) is not int for number in numbers):
        raise ValueError("a count is no whole number")
    return found


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _integer_keys(content: dict[str, Any]) -> dict[int, Any]:
    return {int(key): value for key, value in content.items()}
