"""Kernels for CUDA, in Triton: products or logits to packed bits, and packed bits times a matrix.

Imported where there is a CUDA device. With TRITON_INTERPRET=1 in the environment they run on the
CPU, which is how their logic is tested without one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

PACK_ROWS, PACK_BYTES = 16, 32
"""Rows and bytes of packed bits that a program of the packing kernel makes."""


def pack_logits(logits: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Return (n, ceil(h / 8)) uint8: whether logits (n, h) are at least their threshold (h,)."""
    n_rows, n_bits = logits.shape
    n_bytes = triton.cdiv(n_bits, 8)
    packed = torch.empty(n_rows, n_bytes, dtype=torch.uint8, device=logits.device)
    if n_rows:
        grid = (triton.cdiv(n_rows, PACK_ROWS), triton.cdiv(n_bytes, PACK_BYTES))
        _pack_logits[grid](
            logits,
            threshold,
            packed,
            n_rows,
            n_bits,
            n_bytes,
            logits.stride(0),
            block_rows=PACK_ROWS,
            block_bytes=PACK_BYTES,
        )
    return packed


def packed_product(
    inputs: torch.Tensor, weight: torch.Tensor, threshold: torch.Tensor
) -> torch.Tensor:
    """Return `pack_logits` of a product, whose logits never reach memory.

    Args:
        inputs: (n, k) floats, with neighbouring columns side by side.
        weight: (k, h) floats of the same type.
        threshold: (h,) float32.
    """
    (n_rows, n_inputs), n_bits = inputs.shape, weight.shape[1]
    n_bytes = triton.cdiv(n_bits, 8)
    packed = torch.empty(n_rows, n_bytes, dtype=torch.uint8, device=inputs.device)
    rows, n_at_a_time, depth = (128, 16, 64) if weight.dtype == torch.bfloat16 else (64, 8, 32)
    if n_rows == 0:
        return packed
    grid = (triton.cdiv(n_rows, rows) * triton.cdiv(n_bytes, n_at_a_time),)
    _packed_product[grid](
        inputs,
        weight,
        threshold,
        packed,
        n_rows,
        n_inputs,
        n_bits,
        n_bytes,
        inputs.stride(0),
        weight.stride(0),
        weight.stride(1),
        block_rows=rows,
        block_bytes=n_at_a_time,
        block_inputs=depth,
        num_warps=8 if rows == 128 else 4,
        num_stages=3,
    )
    return packed


def unpacked_product(codes: torch.Tensor, weight: torch.Tensor, *, out: torch.Tensor) -> None:
    """Write the product of packed bits (n, ceil(h / 8)) and weight (h, d) to the rows of `out`."""
    n_rows, n_bytes = codes.shape
    n_bits, n_columns = weight.shape
    rows, columns, n_at_a_time = (128, 128, 8) if weight.dtype == torch.bfloat16 else (64, 64, 4)
    if n_rows == 0:
        return
    grid = (triton.cdiv(n_rows, rows) * triton.cdiv(n_columns, columns),)
    _unpacked_product[grid](
        codes,
        weight,
        out,
        n_rows,
        n_bits,
        n_bytes,
        n_columns,
        codes.stride(0),
        weight.stride(0),
        out.stride(0),
        block_rows=rows,
        block_columns=columns,
        block_bytes=n_at_a_time,
        num_warps=8 if rows == 128 else 4,
        num_stages=3,
    )


@triton.jit
def _pack_logits(  # type: ignore[no-untyped-def]
    logits,
    threshold,
    packed,
    n_rows,
    n_bits,
    n_bytes,
    logits_stride,
    block_rows: tl.constexpr,
    block_bytes: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    first_byte = tl.program_id(1) * block_bytes
    bits = first_byte * 8 + tl.arange(0, block_bytes * 8)
    is_row, is_bit = rows < n_rows, bits < n_bits
    inside = is_row[:, None] & is_bit[None, :]
    values = tl.load(logits + rows[:, None] * logits_stride + bits[None, :], mask=inside, other=0)
    limits = tl.load(threshold + bits, mask=is_bit, other=0)
    on = (values >= limits[None, :]) & inside
    _store_packed(on, packed, rows, first_byte, n_rows, n_bytes, block_rows, block_bytes)


@triton.jit
def _packed_product(  # type: ignore[no-untyped-def]
    inputs,
    weight,
    threshold,
    packed,
    n_rows,
    n_inputs,
    n_bits,
    n_bytes,
    inputs_stride,
    weight_stride,
    weight_column_stride,
    block_rows: tl.constexpr,
    block_bytes: tl.constexpr,
    block_inputs: tl.constexpr,
):
    n_byte_blocks = tl.cdiv(n_bytes, block_bytes)
    program = tl.program_id(0)
    rows = (program // n_byte_blocks).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    first_byte = (program % n_byte_blocks) * block_bytes
    bits = first_byte * 8 + tl.arange(0, block_bytes * 8)
    is_row, is_bit = rows < n_rows, bits < n_bits
    total = tl.zeros((block_rows, block_bytes * 8), dtype=tl.float32)
    for first_input in range(0, n_inputs, block_inputs):
        which = first_input + tl.arange(0, block_inputs)
        part = tl.load(
            inputs + rows[:, None] * inputs_stride + which[None, :],
            mask=is_row[:, None] & (which < n_inputs)[None, :],
            other=0,
        )
        columns = tl.load(
            weight + which[:, None] * weight_stride + bits[None, :] * weight_column_stride,
            mask=(which < n_inputs)[:, None] & is_bit[None, :],
            other=0,
        )
        total = tl.dot(part, columns, total, input_precision="ieee")
    limits = tl.load(threshold + bits, mask=is_bit, other=0)
    on = (total >= limits[None, :]) & is_row[:, None] & is_bit[None, :]
    _store_packed(on, packed, rows, first_byte, n_rows, n_bytes, block_rows, block_bytes)


@triton.jit
def _store_packed(  # type: ignore[no-untyped-def]
    on,
    packed,
    rows,
    first_byte,
    n_rows,
    n_bytes,
    block_rows: tl.constexpr,
    block_bytes: tl.constexpr,
):
    eights = tl.reshape(on.to(tl.int32), (block_rows, block_bytes, 8))
    places = tl.arange(0, 8)
    whole = tl.sum(eights << places[None, None, :], axis=2)
    targets = first_byte + tl.arange(0, block_bytes)
    tl.store(
        packed + rows[:, None] * n_bytes + targets[None, :],
        whole.to(tl.uint8),
        mask=(rows < n_rows)[:, None] & (targets < n_bytes)[None, :],
    )


@triton.jit
def _unpacked_product(  # type: ignore[no-untyped-def]
    codes,
    weight,
    out,
    n_rows,
    n_bits,
    n_bytes,
    n_columns,
    codes_stride,
    weight_stride,
    out_stride,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_bytes: tl.constexpr,
):
    n_column_blocks = tl.cdiv(n_columns, block_columns)
    program = tl.program_id(0)
    rows = (program // n_column_blocks).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    columns = (program % n_column_blocks) * block_columns + tl.arange(0, block_columns)
    is_row, is_column = rows < n_rows, columns < n_columns
    total = tl.zeros((block_rows, block_columns), dtype=tl.float32)
    places = tl.arange(0, 8)
    for first_byte in range(0, n_bytes, block_bytes):
        which = first_byte + tl.arange(0, block_bytes)
        eights = tl.load(
            codes + rows[:, None] * codes_stride + which[None, :],
            mask=is_row[:, None] & (which < n_bytes)[None, :],
            other=0,
        ).to(tl.int32)
        on = (eights[:, :, None] >> places[None, None, :]) & 1
        on = tl.reshape(on, (block_rows, block_bytes * 8)).to(weight.dtype.element_ty)
        bits = first_byte * 8 + tl.arange(0, block_bytes * 8)
        part = tl.load(
            weight + bits[:, None] * weight_stride + columns[None, :],
            mask=(bits < n_bits)[:, None] & is_column[None, :],
            other=0,
        )
        total = tl.dot(on, part, total, input_precision="ieee")
    tl.store(
        out + rows[:, None] * out_stride + columns[None, :],
        total.to(out.dtype.element_ty),
        mask=is_row[:, None] & is_column[None, :],
    )
