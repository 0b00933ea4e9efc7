"""A codec's tensors, by name, as its file holds them."""

from __future__ import annotations

import numpy as np
import torch

from bitcodec.errors import FormatError
from bitcodec.files import PathLike
from bitcodec.model import BinaryAutoencoder
from bitcodec.storage import CodecHeader

_USUAL = {"stages": 0, "side_bytes": 0, "shrinkage": 1}
"""Tensors that most codecs have at these values: left out there, so that files and fingerprints
stay as they were before there were stages and side bytes."""


def tensors_of(model: BinaryAutoencoder, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is saved, and what the fingerprint is of.

    Args:
        model: the autoencoder.
        counts: (h,) int64, rows in which each bit is on.
    """
    tensors = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in _USUAL or (tensor != _USUAL[name]).any()
    }
    return kept | {"counts": counts}


def model_of(
    header: CodecHeader, tensors: dict[str, np.ndarray], *, where: PathLike
) -> BinaryAutoencoder:
    """Build the autoencoder that a file holds.

    Args:
        header: of the file.
        tensors: as `tensors_of` gave them.
        where: the file, for messages.

    Raises:
        FormatError: a tensor is missing, has another shape or type, or is out of range.
    """
    shape = tensors["encoder_weight"].shape if "encoder_weight" in tensors else None
    if shape != (header.n_bits, header.n_dims):  # before a wrong header makes us allocate
        raise FormatError(
            f"{where}: encoder_weight must be {(header.n_bits, header.n_dims)}, got {shape}"
        )
    weighed = "error_root" in tensors
    if weighed and (
        header.parameters.side_bytes or tensors["error_root"].shape != 2 * (header.n_dims,)
    ):
        raise FormatError(
            f"{where}: error_root must be {2 * (header.n_dims,)}, of rows without side bytes, got "
            f"{tensors['error_root'].shape} and {header.parameters.side_bytes} side bytes"
        )
    model = BinaryAutoencoder(
        n_dims=header.n_dims,
        n_bits=header.n_bits,
        side_bytes=header.parameters.side_bytes,
        weighed=weighed,
    )
    usual = {
        name: np.full_like(value.numpy(), _USUAL[name])
        for name, value in model.state_dict().items()
        if name in _USUAL
    }
    _check_tensors({**usual, **tensors}, model, header, where=where)
    given = {name: torch.from_numpy(tensor) for name, tensor in {**usual, **tensors}.items()}
    model.load_state_dict({name: given[name] for name in model.state_dict()})
    return model


def _check_tensors(
    tensors: dict[str, np.ndarray],
    model: BinaryAutoencoder,
    header: CodecHeader,
    *,
    where: PathLike,
) -> None:
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected["counts"] = (header.n_bits,)
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        raise FormatError(f"{where} must hold tensors {expected}, got {found}")
    counts = tensors["counts"]
    if counts.dtype != np.int64 or counts.min() < 0 or counts.max() > header.n_rows:
        raise FormatError(f"{where} holds bit counts outside 0 to {header.n_rows}")
    stages = tensors["stages"]
    if stages.dtype != np.int32 or stages.min() < 0 or stages.max() >= header.n_bits:
        raise FormatError(f"{where} holds stages outside 0 to {header.n_bits - 1}")
    said = header.parameters.side_bytes
    if tensors["side_bytes"].dtype != np.int32 or tensors["side_bytes"] != said:
        raise FormatError(f"{where} holds {tensors['side_bytes']} side bytes, its header {said}")
    if not tensors["shrinkage"] > 0 or (said == 0 and tensors["shrinkage"] != 1):
        raise FormatError(f"{where} holds a shrinkage of {tensors['shrinkage']}")
    if (tensors["scale"] < 0).any():
        raise FormatError(f"{where} holds a negative scale")
    for name in set(expected) - {"counts", "stages", "side_bytes"}:
        if tensors[name].dtype != np.float32 or not np.isfinite(tensors[name]).all():
            raise FormatError(f"{where}: {name} must be finite float32")
