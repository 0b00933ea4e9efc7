"""Codes that stay on the codec's device are those of the linear pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitcodec import BitCodec
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_on_the_device_are_those_of_the_linear_pass(
    codec: BitCodec, hidden: np.ndarray, dtype: torch.dtype
) -> None:
    rows = torch.from_numpy(hidden[:700]).to(dtype)
    packed = codec.encode_on_device(rows)
    np.testing.assert_array_equal(
        packed.cpu().numpy(), codec.encode(rows, refine="none"), strict=True
    )
    decoded = codec.decode_on_device(packed)
    np.testing.assert_array_equal(decoded.cpu().numpy(), codec.decode(packed.cpu().numpy()))


def test_gradients_flow_through_what_is_made_of_decoded_rows(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    decoded = codec.decode_on_device(codec.encode_on_device(torch.from_numpy(hidden[:9])))
    probe = torch.nn.Linear(codec.n_dims_, 1, bias=False)
    probe(decoded).sum().backward()
    assert probe.weight.grad is not None
    torch.testing.assert_close(probe.weight.grad[0], decoded.sum(dim=0))


def test_no_rows_stay_no_rows(codec: BitCodec) -> None:
    packed = codec.encode_on_device(torch.empty(0, codec.n_dims_))
    assert packed.shape == (0, codec.row_bytes_)
    assert codec.decode_on_device(packed).shape == (0, codec.n_dims_)


def test_rows_with_side_bytes_are_refused(hidden: np.ndarray) -> None:
    codec = BitCodec(n_bits=40, n_steps=5, side_bytes=2, entropy_weight=0.0).fit(hidden[:600])
    with pytest.raises(ConfigError, match="rows with 2 side bytes are made on the host"):
        codec.encode_on_device(torch.from_numpy(hidden[:3]))


def test_bad_tensors_are_refused(hidden: np.ndarray) -> None:
    codec = BitCodec(n_bits=37, n_steps=5).fit(hidden[:600])
    packed = codec.encode_on_device(torch.from_numpy(hidden[:3]))
    with pytest.raises(ShapeError, match=r"hidden must be a tensor \(n, 576\), got \(3, 5\)"):
        codec.encode_on_device(torch.zeros(3, 5))
    with pytest.raises(ShapeError, match=r"hidden must be a tensor .* got ndarray"):
        codec.encode_on_device(hidden[:3])  # type: ignore[arg-type]
    with pytest.raises(ValueRangeError, match="row 1 holds NaN"):
        codec.encode_on_device(torch.from_numpy(hidden[:3]).index_fill(0, torch.tensor(1), np.nan))
    with pytest.raises(ValueRangeError, match=r"packed must be uint8, got torch\.int32"):
        codec.decode_on_device(packed.int())
    with pytest.raises(ValueRangeError, match="a pad bit is set beyond bit 36"):
        codec.decode_on_device(packed | 128)
