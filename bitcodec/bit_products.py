"""Packing logits and multiplying packed bits, by the means of each device.

On the CPU numpy packs and unpacks. On CUDA the kernels of `bitcodec.triton_kernels` do, without
floats of the bits in memory; where Triton is missing, torch's own operations do, and a log line
says so once.
"""

from __future__ import annotations

import functools
import importlib
import logging
from types import ModuleType

import numpy as np
import torch

logger = logging.getLogger(__name__)


def pack(bits: torch.Tensor) -> torch.Tensor:
    """Pack bits eight to a byte, least significant bit first, on the device where they are.

    Args:
        bits: (n, h) bool.

    Returns:
        (n, ceil(h / 8)) uint8 there, equal to `bitcodec.bits.pack`.
    """
    return _pack_array(bits.numpy()) if bits.device.type == "cpu" else pack_by_torch(bits)


def pack_logits(logits: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Compare and pack: bit j of a row is whether its logit j is at least threshold j.

    Args:
        logits: (n, h) floats.
        threshold: (h,) floats there; for bfloat16 all 0.

    Returns:
        (n, ceil(h / 8)) uint8 there.
    """
    kernels = kernels_for(logits.device)
    if kernels is not None:
        packed: torch.Tensor = kernels.pack_logits(logits, threshold)
        return packed
    return pack(logits >= threshold)


def packed_product(
    inputs: torch.Tensor, weight: torch.Tensor, threshold: torch.Tensor
) -> torch.Tensor:
    """Multiply, compare and pack in one kernel where there are kernels, else one after another.

    Args:
        inputs: (n, k) floats.
        weight: (k, h) floats there.
        threshold: (h,) float32 there.

    Returns:
        (n, ceil(h / 8)) uint8 there: whether each logit is at least its threshold.
    """
    kernels = kernels_for(inputs.device)
    if kernels is None:
        return pack_logits(inputs @ weight, threshold)
    packed: torch.Tensor = kernels.packed_product(inputs, weight, threshold)
    return packed


def unpacked_product(codes: torch.Tensor, weight: torch.Tensor, *, out: torch.Tensor) -> None:
    """Multiply packed bits with a matrix.

    Args:
        codes: (n, ceil(h / 8)) uint8, pad bits 0.
        weight: (h, d) floats there.
        out: (n, d) floats there, which become the product.
    """
    kernels = kernels_for(codes.device)
    if kernels is not None:
        kernels.unpacked_product(codes, weight, out=out)
        return
    torch.mm(unpack(codes, n_bits=len(weight)).to(weight.dtype), weight, out=out)


def unpack(codes: torch.Tensor, *, n_bits: int) -> torch.Tensor:
    """Return (n, n_bits) uint8 of packed bits, on the device where they are."""
    if codes.device.type == "cpu":
        bits = np.unpackbits(codes.numpy(), axis=1, count=n_bits, bitorder="little")
        return torch.from_numpy(bits)
    return unpack_by_torch(codes, n_bits=n_bits)


def whole_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the exact product of matrices of whole numbers of one byte.

    CUDA's kernel takes sizes that are multiples of 8 and more than 16 rows; the others are padded.

    Args:
        left: (n, k) int8.
        right: (k, m) int8 there.

    Returns:
        (n, m) int32 there.
    """
    n, k, m = left.shape[0], left.shape[1], right.shape[1]
    if left.device.type == "cpu":
        return torch._int_mm(_by_rows(left), _by_rows(right))
    padded_left = torch.nn.functional.pad(left, (0, -k % 8, 0, max(24 - n, -n % 8)))
    padded_right = torch.nn.functional.pad(right, (0, -m % 8, 0, -k % 8))
    return torch._int_mm(padded_left.contiguous(), padded_right.contiguous())[:n, :m]


def _by_rows(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix with the strides of row order, also where a dimension is 1.

    The transpose of a column counts as contiguous whatever its strides, and _int_mm reads past it.
    """
    return matrix.reshape(-1).view(matrix.shape)


def pack_by_torch(bits: torch.Tensor) -> torch.Tensor:
    """Do what `pack` does by operations that every device of torch has."""
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -bits.shape[1] % 8))
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    eights = padded.view(len(bits), padded.shape[1] // 8, 8)
    return (eights * powers).sum(dim=-1, dtype=torch.uint8)


def unpack_by_torch(codes: torch.Tensor, *, n_bits: int) -> torch.Tensor:
    """Do what `unpack` does by operations that every device of torch has."""
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return ((codes[:, :, None] >> places) & 1).flatten(1)[:, :n_bits]


def _pack_array(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.packbits(bits, axis=1, bitorder="little"))


@functools.cache
def kernels_for(device: torch.device) -> ModuleType | None:
    """Return the kernels of a device, None where torch's operations do the work."""
    if device.type != "cuda":
        return None
    try:
        return importlib.import_module("bitcodec.triton_kernels")
    except ImportError as error:
        logger.warning("packing on %s without Triton, which is slower: %s", device, error)
        return None
