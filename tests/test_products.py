"""The products of a codec, their packing, and that no row's code depends on its neighbours."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec, bit_products, products
from bitcodec.bits import pack, unpack
from bitcodec.coder import PackedCoder
from bitcodec.config import Precision
from bitcodec.errors import ConfigError, ValueRangeError
from bitcodec.hidden_checks import finite_float32
from bitcodec.model import BinaryAutoencoder
from bitcodec.products import DecodingProduct, EncodingProduct
from bitcodec.sparse_products import DENSE_SHARE, decode_rows

SIZES = (1, 2, 3, 5, 8, 63, 65)
CPU = torch.device("cpu")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["linear", "staged", "side bytes", "odd"])
def any_codec(request: pytest.FixtureRequest, hidden: np.ndarray) -> BitCodec:
    choices: dict[str, dict[str, Any]] = {
        "linear": {"n_bits": 96, "n_steps": 20},
        "staged": {"n_bits": 1200, "entropy_weight": 0.0, "start": "transform"},
        "side bytes": {"n_bits": 96, "n_steps": 20, "side_bytes": 4, "entropy_weight": 0.0},
        "odd": {"n_bits": 37, "n_steps": 20},
    }
    return BitCodec(refine="none", refine_rounds=0, **choices[request.param]).fit(hidden[:2048])


def test_a_row_has_the_same_code_in_a_batch_of_any_size(
    any_codec: BitCodec, hidden: np.ndarray
) -> None:
    rows = hidden[:130]
    together = any_codec.encode(rows)
    for size in SIZES:
        apart = [any_codec.encode(rows[i : i + size]) for i in range(0, len(rows), size)]
        np.testing.assert_array_equal(np.concatenate(apart), together)


def test_a_code_decodes_to_the_same_floats_in_a_batch_of_any_size(
    any_codec: BitCodec, hidden: np.ndarray
) -> None:
    packed = any_codec.encode(hidden[:130])
    together = any_codec.decode(packed)
    for size in SIZES:
        apart = [any_codec.decode(packed[i : i + size]) for i in range(0, len(packed), size)]
        np.testing.assert_array_equal(np.concatenate(apart), together)


@pytest.mark.usefixtures("threads")
def test_codes_and_floats_do_not_depend_on_the_number_of_threads(
    any_codec: BitCodec, hidden: np.ndarray
) -> None:
    torch.set_num_threads(1)
    packed = any_codec.encode(hidden[:500])
    decoded = any_codec.decode(packed)
    for n_threads in (2, 3, 5, 8, 16):
        torch.set_num_threads(n_threads)
        np.testing.assert_array_equal(any_codec.encode(hidden[:500]), packed)
        np.testing.assert_array_equal(any_codec.encode(hidden[490:500]), packed[490:])
        np.testing.assert_array_equal(any_codec.decode(packed), decoded)
        np.testing.assert_array_equal(any_codec.decode(packed[490:]), decoded[490:])


def test_a_bfloat16_product_rounds_inputs_and_weights_and_nothing_else(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    model, rows = codec._model, torch.from_numpy(hidden[:2000])
    found = EncodingProduct(model, precision="bfloat16").encode(rows)
    bits = unpack(found.numpy(), n_bits=codec.n_bits_)
    with torch.no_grad():
        weight = (model.encoder_weight * model.inverse_scale()).bfloat16().double()
        logits = (rows - model.mean).bfloat16().double() @ weight.T + model.encoder_bias.double()
    clear = logits.abs().numpy() > 1e-4
    np.testing.assert_array_equal(bits[clear], (logits >= 0).numpy()[clear])


def test_few_bits_differ_in_bfloat16(any_codec: BitCodec, hidden: np.ndarray) -> None:
    model, rows = any_codec._model, torch.from_numpy(hidden[:2000])
    codes = [
        EncodingProduct(model, precision=precision).encode(rows).numpy()
        for precision in ("float32", "bfloat16")
    ]
    differing = np.bitwise_count(codes[0] ^ codes[1]).sum() / (len(rows) * any_codec.n_bits_)
    assert 0 < differing < 0.02


def test_decoding_in_bfloat16_costs_little_next_to_the_error_of_the_code(
    any_codec: BitCodec, hidden: np.ndarray
) -> None:
    model, rows = any_codec._model, torch.from_numpy(hidden[:2000])
    with torch.inference_mode():
        codes = EncodingProduct(model).encode(rows)
        exact = DecodingProduct(model).decode(codes)
        rounded = DecodingProduct(model, precision="bfloat16").decode(codes)
    assert rounded.dtype == torch.float32
    missed = (rows - model.mean - exact).square().mean()
    assert (rounded - exact).square().mean() < 0.01 * missed


def test_the_precision_of_a_codec_is_a_parameter(codec: BitCodec, hidden: np.ndarray) -> None:
    exact = codec.encode(hidden[:500])
    try:
        rounded = codec.set_params(compute="bfloat16").encode(hidden[:500])
        assert (rounded != exact).any()
        rough = codec.decode(exact)
        with pytest.raises(ConfigError, match="compute must be one of float32, bfloat16, got"):
            codec.set_params(compute="int8").encode(hidden[:500])
    finally:
        codec.set_params(compute="float32")
    np.testing.assert_array_equal(codec.encode(hidden[:500]), exact)
    assert 0 < np.square(rough - codec.decode(exact)).mean() < 1e-4 * rough.var()


def test_buffers_made_in_inference_mode_serve_outside_it_and_the_other_way_round(
    any_codec: BitCodec, hidden: np.ndarray
) -> None:
    model, rows = any_codec._model, hidden[:9]
    packed = any_codec.encode(rows)
    coders = [PackedCoder(model, side_bytes=any_codec.side_bytes_) for _ in range(2)]
    for coder, order in zip(coders, ((True, False), (False, True)), strict=True):
        for mode in order:
            with torch.inference_mode(mode=mode):
                codes = coder.encode(torch.from_numpy(rows))
                np.testing.assert_array_equal(codes, packed)
                np.testing.assert_array_equal(coder.decode(codes), any_codec.decode(packed))


def test_rows_that_need_no_conversion_are_read_where_they_lie(hidden: np.ndarray) -> None:
    rows = hidden[:9].copy()
    assert finite_float32(rows).data_ptr() == rows.ctypes.data
    fixed = hidden[:9].copy()
    fixed.flags.writeable = False
    for other in (fixed, rows[::-1], rows.astype(np.float64), rows.astype(">f4"), rows[:, ::2]):
        copied = finite_float32(other)
        assert copied.data_ptr() != other.ctypes.data
        np.testing.assert_array_equal(copied.numpy(), other)


def test_encoding_leaves_the_rows_as_they_were(any_codec: BitCodec, hidden: np.ndarray) -> None:
    rows = hidden[:9].copy()
    any_codec.encode(rows)
    np.testing.assert_array_equal(rows, hidden[:9])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_row_of_a_later_batch_is_named(
    bad: float, codec: BitCodec, hidden: np.ndarray
) -> None:
    rows = np.concatenate([hidden[:2500], hidden[:2500]])
    rows[4321, 5] = bad
    with pytest.raises(ValueRangeError, match="row 4321 holds"):
        codec.encode(rows)


@settings(max_examples=40)
@given(n_rows=st.sampled_from([0, 1, 7, 8, 9]), n_bits=st.integers(1, 17), seed=st.integers(0, 9))
def test_packing_by_operations_of_torch_equals_packing_in_numpy(
    n_rows: int, n_bits: int, seed: int
) -> None:
    bits = np.random.default_rng(seed).random((n_rows, n_bits)) < 0.5
    packed = bit_products.pack_by_torch(torch.from_numpy(bits))
    np.testing.assert_array_equal(packed.numpy(), pack(bits), strict=True)
    unpacked = bit_products.unpack_by_torch(packed, n_bits=n_bits)
    np.testing.assert_array_equal(unpacked.numpy(), bits)


def test_a_fused_product_gives_the_same_codes(any_codec: BitCodec, hidden: np.ndarray) -> None:
    rows = torch.from_numpy(hidden[:9])
    fused = EncodingProduct(any_codec._model, fused=True).encode(rows)
    assert torch.equal(fused, EncodingProduct(any_codec._model).encode(rows))


def test_a_fused_product_without_kernels_is_a_product_and_a_packing() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 5, generator=generator)
    weight, threshold = torch.randn(5, 21, generator=generator), torch.zeros(21)
    packed = bit_products.packed_product(inputs, weight, threshold)
    np.testing.assert_array_equal(packed.numpy(), pack((inputs @ weight >= 0).numpy()))


def test_a_device_without_kernels_is_named_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "bitcodec.triton_kernels", None)
    bit_products.kernels_for.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert bit_products.kernels_for(torch.device("cuda:0")) is None
        assert bit_products.kernels_for(torch.device("cuda:0")) is None
    bit_products.kernels_for.cache_clear()
    assert [record.message.split(":")[0] for record in caplog.records] == ["packing on cuda"]
    assert "slower" in caplog.text


def test_more_threads_than_cores_change_nothing() -> None:
    assert run_check("check_many_threads", MKL_DYNAMIC="FALSE") == ["checked", "4"]


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")
def test_the_kernels_for_cuda_equal_numpy_in_tritons_interpreter() -> None:
    assert run_check("check_triton_kernels", TRITON_INTERPRET="1") == ["checked", "10"]


def run_check(module: str, **environment: str) -> list[str]:
    """Run a module of the tests with variables that must be there at import."""
    checked = subprocess.run(
        [sys.executable, "-m", f"tests.{module}"],
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    return checked.stdout.split()


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_rows_of_few_and_of_many_bits_decode_together_as_alone(
    precision: Precision, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, n_bits, n_summed = np.random.default_rng(0), 77, 0
    model = BinaryAutoencoder(n_dims=10, n_bits=n_bits)
    torch.nn.init.normal_(model.decoder_weight)
    torch.nn.init.normal_(model.decoder_bias)
    model.scale.uniform_(0.5, 2.0)
    shares = np.repeat([0.0, 1 / DENSE_SHARE, 0.5, 1.0], 50)[:, None]
    bits = generator.permuted(np.arange(n_bits) < shares * n_bits // 1, axis=1)
    codes = pack(generator.permutation(bits).astype(np.uint8))

    def counted(codes: np.ndarray, *rest: np.ndarray) -> torch.Tensor:
        nonlocal n_summed
        n_summed += len(codes)
        return decode_rows(codes, *rest)

    monkeypatch.setattr(products, "decode_rows", counted)
    decoding = DecodingProduct(model, precision=precision)
    together = decoding.decode_from_host(codes)
    assert n_summed == 100
    alone = [decoding.decode_from_host(codes[row : row + 1]) for row in range(len(codes))]
    assert torch.equal(together, torch.cat(alone))
    on = torch.from_numpy(unpack(codes, n_bits=n_bits)).double()
    expected = model.scale * torch.addmm(
        model.decoder_bias.detach().double(), on, model.decoder_weight.detach().double()
    )
    torch.testing.assert_close(
        together.double(), expected, rtol=0, atol=error * float(expected.abs().max())
    )


def test_codes_may_be_strided_read_only_and_none_at_all(tmp_path: Path) -> None:
    model = BinaryAutoencoder(n_dims=6, n_bits=77)
    torch.nn.init.normal_(model.decoder_weight)
    decoding, generator = DecodingProduct(model), np.random.default_rng(0)
    codes = pack((generator.random((90, 77)) < 0.05).astype(np.uint8))
    expected = decoding.decode_from_host(codes)
    np.save(tmp_path / "codes.npy", codes)
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    wide = np.concatenate([codes, generator.integers(0, 256, (90, 4), dtype=np.uint8)], axis=1)
    for other in (mapped, wide[:, : codes.shape[1]], np.asfortranarray(codes)):
        assert torch.equal(decoding.decode_from_host(other), expected)
    assert decoding.decode_from_host(codes[:0]).shape == (0, 6)


def test_bits_beyond_those_of_a_code_are_not_decoded() -> None:
    weight, codes = np.ones((11, 3), np.float32), np.array([[1, 0xFF, 0xFF]], np.uint8)
    assert decode_rows(codes, weight, np.zeros(3, np.float32)).tolist() == [[4, 4, 4]]
