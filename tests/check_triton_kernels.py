"""Check the kernels for CUDA against numpy, on the CPU, in Triton's interpreter.

Run by a test in a process of its own, with TRITON_INTERPRET=1. The interpreter cannot multiply
bfloat16; float16 takes the same path.
"""

from __future__ import annotations

import numpy as np
import torch

from bitcodec import triton_kernels
from bitcodec.bits import pack, unpack

SHAPES = ((0, 5, 3), (1, 1, 1), (7, 17, 5), (130, 40, 70), (33, 300, 150))


def main() -> None:
    n_checked = 0
    for dtype in (torch.float32, torch.float16):
        for n_rows, n_bits, n_dims in SHAPES:
            generator = torch.Generator().manual_seed(n_rows)
            logits = torch.randn(n_rows, n_bits, generator=generator).to(dtype)
            threshold = torch.randn(n_bits, generator=generator).to(dtype).float()
            logits[:, 0] = threshold[0]  # a logit at its threshold is on
            weight = torch.randn(n_bits, n_dims, generator=generator).to(dtype)
            check(logits, threshold, weight)
            check_product(logits, weight)
            n_checked += 1
    print("checked", n_checked)


def check(logits: torch.Tensor, threshold: torch.Tensor, weight: torch.Tensor) -> None:
    bits = (logits >= threshold).numpy()
    packed = triton_kernels.pack_logits(logits, threshold)
    np.testing.assert_array_equal(packed.numpy(), pack(bits), strict=True)
    out = torch.full((len(bits) + 2, weight.shape[1]), 7.0, dtype=weight.dtype)
    triton_kernels.unpacked_product(packed, weight, out=out)
    expected = bits.astype(np.float64) @ weight.double().numpy()
    tolerance = 1e-5 if weight.dtype == torch.float32 else 2e-3
    np.testing.assert_allclose(out[: len(bits)].numpy(), expected, rtol=tolerance, atol=tolerance)
    assert (out[len(bits) :] == 7).all()


def check_product(inputs: torch.Tensor, weight: torch.Tensor) -> None:
    """Check product, comparison and packing in one kernel."""
    inputs, limits = inputs.clone(), torch.full((weight.shape[1],), 0.25)
    inputs[:1], limits[0] = 0, 0  # a logit at its threshold is on
    excess = inputs.double().numpy() @ weight.double().numpy() - limits.numpy()
    sure = (np.abs(excess) > 1e-3) | (inputs == 0).all(dim=1).numpy()[:, None]
    assert sure.sum() >= 0.9 * sure.size
    for matrix in (weight, weight.T.contiguous().T):
        packed = triton_kernels.packed_product(inputs, matrix, limits)
        bits = unpack(packed.numpy(), n_bits=weight.shape[1])
        np.testing.assert_array_equal(bits[sure], (excess >= 0)[sure])


if __name__ == "__main__":
    main()
