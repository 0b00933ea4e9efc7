"""The facade: shapes and dtypes in and out, evaluation, scikit-learn, and every bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from bitcodec import BitCodec, storage
from bitcodec.bits import pack, unpack
from bitcodec.errors import (
    BitcodecError,
    ConfigError,
    MismatchError,
    NotFittedError,
    ShapeError,
    ValueRangeError,
)
from bitcodec.range_coding import learn_context
from tests.edited import edit_json

N_BITS, ROW_BYTES, D = 67, 9, 576


def with_tensors(codec: BitCodec, folder: Path, **tensors: np.ndarray) -> BitCodec:
    """Build the codec that has other tensors in some places."""
    codec.save(folder)
    header, known = storage.load_codec(folder)
    changed = {name: np.ascontiguousarray(value) for name, value in (known | tensors).items()}
    save_file(changed, folder / "model.safetensors")
    assert header.fingerprint == codec.fingerprint_
    edit_json(folder / "config.json", fingerprint=storage.fingerprint(changed))
    return BitCodec.load(folder)


# shapes and dtypes


def test_a_fitted_codec_tells_its_shape(codec: BitCodec) -> None:
    found = (codec.n_dims_, codec.n_bits_, codec.row_bytes_, len(codec.fingerprint_))
    assert found == (D, N_BITS, ROW_BYTES, 64)


def test_a_single_vector_gives_a_single_row_and_back(codec: BitCodec, hidden: np.ndarray) -> None:
    packed = codec.encode(hidden[3])
    np.testing.assert_array_equal(packed, codec.encode(hidden[:5])[3], strict=True)
    np.testing.assert_array_equal(codec.encode_bits(hidden[3]), codec.encode_bits(hidden[:5])[3])
    np.testing.assert_allclose(codec.decode(packed), codec.decode(packed[None])[0], rtol=1e-6)


def test_the_code_of_a_row_does_not_depend_on_how_many_are_beside_it(hidden: np.ndarray) -> None:
    settings = {"n_bits": 2304, "n_steps": 1, "batch_size": 256, "refine": "none"}
    wide = BitCodec.preset("hamming", **settings).fit(hidden[:512])
    few = list(wide.encode_batches(hidden[:1024], batch_size=3))
    np.testing.assert_array_equal(np.concatenate(few), wide.encode(hidden[:1024]))


def test_leading_axes_are_kept(codec: BitCodec, hidden: np.ndarray) -> None:
    shaped = hidden[:24].reshape(2, 3, 4, D)
    packed = codec.encode(shaped)
    expected = codec.encode(hidden[:24])
    np.testing.assert_array_equal(packed, expected.reshape(2, 3, 4, ROW_BYTES), strict=True)
    assert codec.encode_bits(shaped).shape == (2, 3, 4, N_BITS)
    decoded = codec.decode(packed)
    np.testing.assert_array_equal(decoded, codec.decode(expected).reshape(2, 3, 4, D), strict=True)


@pytest.mark.parametrize("shape", [(0, D), (2, 0, D)])
def test_no_rows_give_no_rows(codec: BitCodec, shape: tuple[int, ...]) -> None:
    packed = codec.encode(np.zeros(shape, np.float32))
    assert packed.shape == (*shape[:-1], ROW_BYTES)
    assert codec.encode_bits(np.zeros(shape, np.float32)).shape == (*shape[:-1], N_BITS)
    assert codec.decode(packed).shape == shape


CONVERSIONS: dict[str, Callable[[np.ndarray], np.ndarray | torch.Tensor]] = {
    "float64 array": lambda rows: rows.astype(np.float64),
    "big-endian array": lambda rows: rows.astype(">f4"),
    "Fortran array": lambda rows: np.asfortranarray(rows),
    "tensor": lambda rows: torch.from_numpy(rows),
    "tensor with gradient": lambda rows: torch.from_numpy(rows.copy()).requires_grad_(),
    "transposed tensor": lambda rows: torch.from_numpy(rows.T.copy()).T,
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_every_container_of_the_same_values_gives_the_same_codes(
    codec: BitCodec, hidden: np.ndarray, kind: str
) -> None:
    packed = codec.encode(CONVERSIONS[kind](hidden[:50]))
    np.testing.assert_array_equal(packed, codec.encode(hidden[:50]), strict=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensors_of_few_bits_are_encoded_as_the_values_they_hold(
    codec: BitCodec, hidden: np.ndarray, dtype: torch.dtype
) -> None:
    rounded = torch.from_numpy(hidden[:50]).to(dtype)
    np.testing.assert_array_equal(codec.encode(rounded), codec.encode(rounded.float().numpy()))


def test_encoding_a_file_an_iterable_or_an_array_is_the_same(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", hidden[:500])
    expected = codec.encode(hidden[:500])
    parts = (hidden[start : start + 77] for start in range(0, 500, 77))
    stream = codec.encode_batches(str(tmp_path / "x.npy"), batch_size=33)
    parts_of_500 = (rows[: 500 - 77 * i] for i, rows in enumerate(parts))
    for found in (
        codec.encode(tmp_path / "x.npy"),
        codec.encode(parts_of_500),
        np.concatenate(list(stream)),
    ):
        np.testing.assert_array_equal(found, expected, strict=True)


def test_encoding_a_stream_is_lazy(codec: BitCodec, hidden: np.ndarray) -> None:
    served = []

    def serve() -> Any:
        for start in (0, 100):
            served.append(start)
            yield hidden[start : start + 100]

    first = next(codec.encode_batches(serve()))
    assert served == [0]
    np.testing.assert_array_equal(first, codec.encode(hidden[:100]))


def test_bits_are_the_packed_rows_unpacked(codec: BitCodec, hidden: np.ndarray) -> None:
    packed = codec.encode(hidden[:100])
    bits = codec.encode_bits(hidden[:100])
    np.testing.assert_array_equal(bits, unpack(packed, n_bits=N_BITS), strict=True)
    np.testing.assert_array_equal(pack(bits), packed)


def test_encoding_does_not_change_its_input(codec: BitCodec, hidden: np.ndarray) -> None:
    rows = hidden[:50].copy()
    codec.encode(rows)
    np.testing.assert_array_equal(rows, hidden[:50])


def test_burstiness_is_measured_against_the_activity_of_the_fit(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    found = codec.burstiness(codec.encode(hidden[:20]))
    activity = codec.statistics_.activity
    with np.errstate(divide="ignore"):
        expected = np.log2(np.abs(codec.encode_bits(hidden[:20]) - activity))
    np.testing.assert_array_equal(found, expected)


def test_constant_dimensions_are_decoded_to_their_value_on_request(hidden: np.ndarray) -> None:
    rows = hidden[:300].copy()
    rows[:, 7] = 0.1
    codec = BitCodec(n_bits=30, n_steps=3, batch_size=64, constant="keep").fit(rows)
    decoded = codec.decode(codec.encode(rows))
    assert set(decoded[:, 7].tolist()) == {np.float32(0.1)}
    assert 0 < codec.evaluate(rows).fvu < 1


# evaluation


def test_evaluation_equals_numpy_on_held_out_rows(codec: BitCodec, hidden: np.ndarray) -> None:
    x = hidden[3072:].astype(np.float64)
    y = codec.decode(codec.encode(hidden[3072:])).astype(np.float64)
    p = codec.encode_bits(hidden[3072:]).mean(axis=0)
    p = np.stack([p, 1 - p])
    entropy = -np.sum(p[p > 0] * np.log2(p[p > 0]))
    norms = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    found = codec.evaluate(hidden[3072:])
    assert (found.n_rows, found.n_dims, found.n_bits) == (len(x), D, N_BITS)
    assert found.fvu == pytest.approx((np.square(x - y).mean(0) / x.var(0)).mean(), rel=1e-6)
    assert found.fvu_total == pytest.approx(np.square(x - y).sum() / (x.var(0) * len(x)).sum())
    assert found.cosine == pytest.approx(((x * y).sum(1) / norms[0] / norms[1]).mean())
    assert found.l2_ratio == pytest.approx((norms[1] / norms[0]).mean())
    assert found.entropy_bits == pytest.approx(entropy, rel=1e-9)
    assert found.entropy_bits == pytest.approx(entropy, rel=1e-9)
    assert found.coded_bytes_per_vector == found.code_bits / 8 >= found.entropy_bits / 8
    assert (found.bytes_per_vector, found.float16_bytes_per_vector) == (ROW_BYTES, 2 * D)


def test_a_codec_that_predicts_the_mean_scores_an_fvu_of_one(
    codec: BitCodec, hidden: np.ndarray, tmp_path: Path
) -> None:
    mean = hidden.mean(axis=0, dtype=np.float64).astype(np.float32)
    blind = with_tensors(
        codec,
        tmp_path / "blind",
        decoder_weight=np.zeros((N_BITS, D), np.float32),
        decoder_bias=np.zeros(D, np.float32),
        mean=mean,
    )
    found = blind.evaluate(hidden)
    assert found.fvu == pytest.approx(1, abs=1e-5)
    assert found.fvu_total == pytest.approx(1, abs=1e-5)


def test_a_fitted_codec_explains_some_variance_of_rows_it_never_saw(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    assert codec.evaluate(hidden[3072:]).fvu < 0.9


def test_evaluation_does_not_depend_on_how_the_rows_come(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    whole, parts = codec.evaluate(hidden[:900]), codec.evaluate(np.array_split(hidden[:900], 7))
    assert parts.fvu == pytest.approx(whole.fvu, rel=1e-9)
    assert parts.entropy_bits == whole.entropy_bits


@pytest.mark.parametrize("n_rows", [1, 3, 7])
def test_evaluating_rows_that_do_not_differ_is_refused(
    codec: BitCodec, hidden: np.ndarray, n_rows: int
) -> None:
    with pytest.raises(ValueRangeError, match=r"rows do not differ.*evaluate at least two"):
        codec.evaluate(np.tile(hidden[:1], (n_rows, 1)))


def test_evaluating_no_rows_is_refused(codec: BitCodec) -> None:
    with pytest.raises(ShapeError, match="hidden has no rows: pass at least two hidden states"):
        codec.evaluate(np.zeros((0, D), np.float32))


# scikit-learn


def tiny(**parameters: Any) -> BitCodec:
    return BitCodec().set_params(n_bits=16, n_steps=3, batch_size=64, **parameters)


def test_a_clone_has_the_parameters_and_no_fit(codec: BitCodec) -> None:
    copy = clone(codec)
    assert copy.get_params() == codec.get_params()
    with pytest.raises(NotFittedError, match="was not fitted"):
        copy.encode(np.zeros((1, D), np.float32))


def test_a_codec_works_first_in_a_pipeline(hidden: np.ndarray) -> None:
    pipeline = Pipeline([("codec", tiny()), ("classify", LogisticRegression())])
    pipeline.set_params(codec__n_bits=24)
    pipeline.fit(hidden[:200], np.arange(200) % 2)
    assert pipeline.named_steps["codec"].n_bits_ == 24
    assert set(pipeline.predict(hidden[:20])) <= {0, 1}


def test_a_codec_works_last_in_a_pipeline_and_back(hidden: np.ndarray) -> None:
    rows = hidden[:200].astype(np.float64)
    pipeline = Pipeline([("scale", StandardScaler()), ("codec", tiny())]).fit(rows)
    packed = pipeline.transform(rows)
    alone = tiny().fit(StandardScaler().fit_transform(rows))
    np.testing.assert_array_equal(packed, alone.transform(StandardScaler().fit_transform(rows)))
    back = pipeline.inverse_transform(packed)
    assert np.square(back - rows).mean() < np.square(rows - rows.mean(axis=0)).mean()


# bad input


@pytest.mark.parametrize(
    "use",
    [
        lambda codec: codec.encode(np.zeros((1, D), np.float32)),
        lambda codec: codec.encode_bits(np.zeros((1, D), np.float32)),
        lambda codec: next(codec.encode_batches([np.zeros((1, D), np.float32)])),
        lambda codec: codec.decode(np.zeros((1, 2), np.uint8)),
        lambda codec: codec.burstiness(np.zeros((1, 2), np.uint8)),
        lambda codec: codec.evaluate(np.zeros((1, D), np.float32)),
    ],
)
def test_a_codec_that_was_not_fitted_says_how_to_get_one(use: Callable[[BitCodec], Any]) -> None:
    with pytest.raises(NotFittedError, match=r"was not fitted: call fit, or BitCodec\.load"):
        use(BitCodec())


def bad_rows(hidden: np.ndarray, value: float) -> np.ndarray:
    rows = hidden[:300].copy()
    rows[[123, 200], 5] = value
    return rows


BAD_INPUT: dict[str, tuple[type[BitcodecError], str, Callable[[np.ndarray], Any]]] = {
    "wrong width": (
        ShapeError,
        r"must be \(n, 576\), got \(32, 1024\).*576 dimensions",
        lambda _: np.zeros((32, 1024), np.float32),
    ),
    "wrong width of a vector": (
        ShapeError,
        r"must be \(n, 576\), got \(1024,\).*576 dimensions",
        lambda _: np.zeros(1024, np.float32),
    ),
    "a number": (ShapeError, r"must be \(n, 576\), got \(\)", lambda _: np.array(3, np.float32)),
    "wrong width of a batch": (
        ShapeError,
        r"batch 0 must be \(n, 576\), got \(2, 4\): pass",
        lambda _: [np.zeros((2, 4), np.float32)],
    ),
    "wrong rank of a batch": (
        ShapeError,
        r"batch 0 must be \(n, d\), got \(1, 2, 576\): one hidden state a row",
        lambda _: [np.zeros((1, 2, D), np.float32)],
    ),
    "NaN": (
        ValueRangeError,
        r"row 123 holds NaN .*: drop or repair.*float16",
        lambda hidden: bad_rows(hidden, np.nan),
    ),
    "infinity": (
        ValueRangeError,
        r"row 123 holds infinity .*: drop or repair.*float16",
        lambda hidden: bad_rows(hidden, np.inf),
    ),
    "overflown float16": (
        ValueRangeError,
        r"row 123 holds infinity.*harvest in bfloat16 or float32",
        lambda hidden: torch.from_numpy(bad_rows(hidden, 1e6)).half(),
    ),
    "integers": (
        ValueRangeError,
        r"must be float16.*got int64: pass the hidden states",
        lambda _: np.zeros((2, D), np.int64),
    ),
    "integer tensor": (
        ValueRangeError,
        r"must be float16.*got torch.int32: pass the hidden states",
        lambda _: torch.zeros(2, D, dtype=torch.int32),
    ),
    "objects": (
        ValueRangeError,
        r"must be float16.*got object",
        lambda _: np.full((2, D), None, dtype=object),
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_hidden_states_are_refused_in_one_line_that_says_what_to_do(
    codec: BitCodec, hidden: np.ndarray, name: str
) -> None:
    kind, message, make = BAD_INPUT[name]
    with pytest.raises(kind, match=message) as raised:
        codec.encode(make(hidden))
    assert "\n" not in str(raised.value)


def test_a_bad_row_far_down_is_named_by_its_place(codec: BitCodec) -> None:
    rows = np.zeros((5000, D), np.float16)
    rows[4500, 3] = np.nan
    with pytest.raises(ValueRangeError, match="row 4500 holds NaN"):
        codec.encode(rows)


@pytest.mark.parametrize("name", sorted(set(BAD_INPUT) - {"wrong width", "wrong width of a batch"}))
def test_bad_hidden_states_are_refused_before_training(hidden: np.ndarray, name: str) -> None:
    kind, _, make = BAD_INPUT[name]
    codec = tiny()
    with pytest.raises(kind, match=r"hidden|row 123 holds|batch 0 must be"):
        codec.fit(make(hidden), on_record=lambda _: pytest.fail("training must not begin"))
    assert not hasattr(codec, "n_bits_")


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (np.zeros((0, D), np.float32), ShapeError, "hidden has no rows: pass at least a batch"),
        ([], ShapeError, "hidden has no rows: pass at least a batch"),
        (np.ones((63, D), np.float32), ShapeError, "63 rows, fewer than a batch of 64: pass more"),
        (np.ones((64, D), np.float32), ConfigError, "every dimension of hidden is constant"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(
    data: Any, kind: type[BitcodecError], message: str
) -> None:
    with pytest.raises(kind, match=message) as raised:
        tiny().fit(data)
    assert "\n" not in str(raised.value)


def test_a_constant_dimension_is_refused_with_both_ways_out(hidden: np.ndarray) -> None:
    rows = hidden[:300].copy()
    rows[:, [7, 9]] = 0.1
    with pytest.raises(ConfigError, match=r"2 of 576.*first: 7\): drop them, or pass constant="):
        tiny().fit(rows)


@pytest.mark.parametrize(
    ("packed", "kind", "message"),
    [
        (np.zeros((2, 8), np.uint8), ShapeError, r"packed must be \(n, 9\), got \(2, 8\): this co"),
        (np.zeros((), np.uint8), ShapeError, r"packed must be \(n, 9\), got \(\)"),
        (np.zeros((2, 9), np.int64), ValueRangeError, "packed must be uint8, got int64: pass the"),
        (np.zeros((2, 9), bool), ValueRangeError, "packed must be uint8, got bool: pass the"),
        (np.full((2, 9), 8, np.uint8), ValueRangeError, "row 0 has a pad bit set beyond bit 66"),
    ],
)
def test_bad_codes_are_refused(
    codec: BitCodec, packed: np.ndarray, kind: type[BitcodecError], message: str
) -> None:
    with pytest.raises(kind, match=message) as raised:
        codec.decode(packed)
    assert "\n" not in str(raised.value)


def test_a_pad_bit_far_down_is_named_by_its_row(codec: BitCodec) -> None:
    packed = np.zeros((2000, ROW_BYTES), np.uint8)
    packed[1500, -1] = 0x80
    with pytest.raises(ValueRangeError, match="row 1500 has a pad bit set"):
        codec.decode(packed)


@pytest.mark.parametrize("device", ["cuda:99", "tpu-of-tomorrow"])
def test_a_device_that_is_not_there_is_refused(hidden: np.ndarray, device: str) -> None:
    with pytest.raises(ConfigError, match=f"device must be .*got '{device}'") as raised:
        tiny(device=device).fit(hidden[:100])
    assert "\n" not in str(raised.value)


def test_every_row_of_the_fit_is_counted_though_the_last_batch_is_short(
    hidden: np.ndarray,
) -> None:
    fitted = BitCodec(n_bits=12, n_steps=2, batch_size=512, refine="none").fit(hidden[:1000])
    assert fitted.statistics_.n_rows == 1000


def test_a_failed_minibatch_leaves_the_codec_as_it_was(hidden: np.ndarray, tmp_path: Path) -> None:
    fitted = BitCodec(n_bits=12, n_steps=2, batch_size=256, refine="none").fit(hidden[:512])
    before = fitted.encode(hidden[:50])
    with pytest.raises(ValueRangeError, match="lower learning_rate"):
        fitted.partial_fit(np.full((4, hidden.shape[1]), 1e30, dtype=np.float32))
    fitted.save(tmp_path / "codec")
    np.testing.assert_array_equal(BitCodec.load(tmp_path / "codec").encode(hidden[:50]), before)


def test_partial_fit_refuses_another_number_of_bits(hidden: np.ndarray) -> None:
    fitted = BitCodec(n_bits=12, n_steps=2, batch_size=256, refine="none").fit(hidden[:512])
    with pytest.raises(
        ConfigError, match="goes on with 12 bits and 0 side bytes, the parameters now say 5"
    ):
        fitted.set_params(n_bits=5).partial_fit(hidden[:256])


def test_rows_survive_compressing_with_the_codecs_own_table_and_with_another(
    codec: BitCodec, hidden: np.ndarray
) -> None:
    packed = codec.encode(hidden)
    table = learn_context(packed[:1024], n_bits=codec.n_bits_, n_steps=30)
    for data in (codec.compress(packed), codec.compress(packed, table=table)):
        assert np.array_equal(codec.decompress(data), packed)
    bits = 8 * len(codec.compress(packed)) / len(packed)
    assert bits == pytest.approx(codec.evaluate(hidden).code_bits, rel=0.02)


def test_side_bytes_are_compressed_with_their_rows(hidden: np.ndarray) -> None:
    codec = BitCodec.preset("search", n_bits=40, n_steps=20, side_bytes=4).fit(hidden[:1024])
    packed = codec.encode(hidden)
    data = codec.compress(packed)
    assert np.array_equal(codec.decompress(data), packed)
    assert len(data) < packed.size


def test_compressed_rows_of_another_codec_are_refused(codec: BitCodec, hidden: np.ndarray) -> None:
    packed = codec.encode(hidden[:64])
    other = BitCodec(n_bits=67, n_steps=5, batch_size=64, seed=1).fit(hidden[:512])
    with pytest.raises(MismatchError, match="another probability table"):
        other.decompress(codec.compress(packed))
    narrow = BitCodec(n_bits=9, n_steps=5, batch_size=64).fit(hidden[:512])
    table = learn_context(packed, n_bits=67, n_steps=2)
    with pytest.raises(MismatchError, match="9 bits and 0 side bytes, got 67 and 0"):
        narrow.decompress(codec.compress(packed, table=table))
    with pytest.raises(NotFittedError, match="not fitted"):
        BitCodec().compress(packed)
