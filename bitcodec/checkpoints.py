"""Training that survives its process: a file with all that a next step depends on.

A checkpoint is a safetensors file, written to a temporary name and renamed: model, optimiser,
generators and records as tensors, and beside them, as JSON in its metadata, the configuration and
where training stands.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bitcodec.config import CodecConfig
from bitcodec.errors import ConfigError, FileError, FormatError, MismatchError
from bitcodec.files import PathLike, atomic_path, check_target, one_line
from bitcodec.locks import writing_alone
from bitcodec.parallel import rank
from bitcodec.sealed_json import sealed, unsealed

CHECKPOINT_VERSION = 3
"""Version 3 holds bits of the latest minibatches, not counts of pairs; 1 and 2 are refused."""
_METADATA_KEY = "bitcodec_training"


State = dict[str, torch.Tensor]


class Stateful(Protocol):
    """A part of training that remembers something from step to step."""

    def state(self) -> State:
        """Return what it remembers."""

    def take(self, state: State) -> None:
        """Remember that."""


def gather(parts: Mapping[str, Stateful]) -> State:
    """Return copies of what named parts remember, under `part.name`."""
    return {
        f"{part}.{name}": tensor.detach().clone()
        for part, owner in parts.items()
        for name, tensor in owner.state().items()
    }


def scatter(state: State, parts: Mapping[str, Stateful]) -> None:
    """Have named parts go on from what `gather` returned.

    Raises:
        FormatError: something is missing, or has another shape.
    """
    for part, owner in parts.items():
        prefix = f"{part}."
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        try:
            owner.take(own)
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise FormatError(f"the checkpoint's {part} is damaged: {one_line(error)}") from error


class Checkpoint:
    """A file that holds the latest state of one training.

    Args:
        path: of the file; its parent must exist.
        every: steps between two states.
        sensitivity: SHA-256 of the matrix by which errors are weighed, hexadecimal; "" for none.

    Raises:
        ConfigError: `every` is below 1.
        FileError: the file could not be written there.
    """

    def __init__(self, path: PathLike, *, every: int, sensitivity: str = "") -> None:
        if every < 1:
            raise ConfigError(f"checkpoint_every must be at least 1, got {every}")
        check_target(path, overwrite=True)
        self.path = Path(path)
        self.every = every
        self._sensitivity = sensitivity

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from training into this file; of one training only the first does.

        Raises:
            FileError: another process does.
        """
        if rank() != 0:
            yield
            return
        with writing_alone(self.path):
            yield

    def save(self, state: State, config: CodecConfig) -> None:
        """Write a state in the place of the one before.

        Raises:
            FileError: the file cannot be written; the one before is whole.
        """
        tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        header = {
            "format_version": CHECKPOINT_VERSION,
            "parameters": config.to_dict(),
            "sensitivity": self._sensitivity,
            "tensors_sha256": _sha256_of(tensors),
        }
        metadata = {_METADATA_KEY: json.dumps(sealed(header))}
        with atomic_path(self.path, overwrite=True) as temporary:
            try:
                save_file(tensors, temporary, metadata=metadata)
            except SafetensorError as error:
                raise FileError(f"cannot write {self.path}: {one_line(error)}") from error

    def load(self, config: CodecConfig) -> State | None:
        """Read the state, or None where there is none yet.

        Raises:
            MismatchError: the state belongs to another configuration; it is kept.
            FormatError: the file is foreign, damaged or of a newer format.
        """
        if not self.path.exists():
            return None
        header, tensors = _read(self.path)
        try:
            saved = CodecConfig.from_dict(header["parameters"])
        except (ConfigError, TypeError) as error:
            raise FormatError(
                f"{self.path} has bad parameters: {error}: go on with the bitcodec that wrote it, "
                "or name another file to begin anew"
            ) from error
        differ = [
            field.name
            for field in dataclasses.fields(CodecConfig)
            if getattr(saved, field.name) != getattr(config, field.name)
        ]
        if differ:
            name = differ[0]
            raise MismatchError(
                f"{self.path} is of a training with {name}={getattr(saved, name)!r}, and this one "
                f"has {getattr(config, name)!r}: go on with that value, or name another file"
            )
        if header.get("sensitivity", "") != self._sensitivity:
            raise MismatchError(
                f"{self.path} is of a training with another sensitivity, or with one where there "
                "is none now, or the reverse: go on with the same, or name another file"
            )
        return tensors


@dataclasses.dataclass(frozen=True)
class CheckpointHeader:
    """What a checkpoint says of itself, its tensors aside."""

    format_version: int
    """Of the format."""
    n_steps_done: int
    """Steps of the training so far."""
    n_rows: int
    """Hidden states that are trained on."""
    n_dims: int
    """Their width d."""
    n_bits: int
    """Bits h of a code, before pruning."""
    parameters: dict[str, Any]
    """What the fit was asked to do."""


def is_checkpoint(path: PathLike) -> bool:
    """Tell whether a file is a checkpoint of bitcodec, whole or not."""
    try:
        with safe_open(path, framework="pt") as file:
            return _METADATA_KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_checkpoint_header(path: PathLike) -> CheckpointHeader:
    """Read what a checkpoint says of itself; its tensors are checked, too.

    Raises:
        FormatError: the file is no checkpoint, damaged, or of another format.
    """
    header, tensors = _read(Path(path))
    try:
        n_rows, n_dims = tensors["data"].tolist()
        n_bits, n_steps = len(tensors["model.encoder_bias"]), int(tensors["records"][-1, 0])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"{path} is no whole checkpoint: {one_line(error)}") from error
    return CheckpointHeader(
        format_version=header["format_version"],
        n_steps_done=n_steps,
        n_rows=n_rows,
        n_dims=n_dims,
        n_bits=n_bits,
        parameters=header["parameters"],
    )


@contextmanager
def held_signals() -> Iterator[list[int]]:
    """Keep SIGINT and SIGTERM from interrupting a step.

    Yields:
        A list that a signal's number is appended to when it comes; whoever holds the signals looks
        at it between steps. Signals that are ignored stay so, and outside the main thread all come
        as they always do.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)

    heard = (
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    )
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is not a checkpoint: {one_line(error)}") from error
    try:
        header = json.loads(metadata[_METADATA_KEY])
        version, _ = header["format_version"], header["parameters"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not a checkpoint of bitcodec") from error
    if type(version) is not int or version != CHECKPOINT_VERSION:
        raise FormatError(
            f"{path} has format version {version!r:.40}, this bitcodec reads {CHECKPOINT_VERSION}: "
            "go on with the bitcodec that wrote it, or name another file to begin anew"
        )
    header = unsealed(header, where=path)
    if header.get("tensors_sha256") != _sha256_of(tensors):
        raise FormatError(f"{path} is damaged: its tensors are not those that were written")
    return header, tensors


def _sha256_of(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
