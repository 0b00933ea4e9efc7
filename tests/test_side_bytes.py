"""Factor and norm beside the bits: unbiased products, exact norms, any scale, bad bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bitcodec import BitCodec
from bitcodec.bits import row_bytes
from bitcodec.errors import ConfigError, FormatError, ShapeError, ValueRangeError
from bitcodec.model import to_unit_rows
from bitcodec.side_rows import SideRows
from bitcodec.storage import PackedWriter, open_packed
from tests.edited import edit_json

N_BITS = 133


def fitted(hidden: np.ndarray, side_bytes: int, **parameters: object) -> BitCodec:
    settings = {"n_bits": N_BITS, "n_steps": 60, "batch_size": 256, "refine": "fast"}
    return BitCodec.preset("search", side_bytes=side_bytes, **(settings | parameters)).fit(hidden)


@pytest.fixture(scope="module")
def codecs(hidden: np.ndarray) -> dict[int, BitCodec]:
    return {side_bytes: fitted(hidden[:3072], side_bytes) for side_bytes in (0, 2, 4)}


def estimates(codec: BitCodec, queries: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Return (q, n) inner products from `query_weights` and `side`, by definition."""
    weights, side = codec.query_weights(queries), codec.side(packed)
    bits = np.unpackbits(packed[:, : row_bytes(N_BITS)], axis=1, bitorder="little")[:, :N_BITS]
    products = weights.weights.astype(np.float64) @ bits.T + weights.bias[:, None]
    return np.asarray(weights.base[:, None] + side.factor * products)


@pytest.mark.parametrize("side_bytes", [0, 2, 4])
def test_a_row_is_its_bits_and_then_its_side_bytes(
    codecs: dict[int, BitCodec], hidden: np.ndarray, side_bytes: int
) -> None:
    codec = codecs[side_bytes]
    packed = codec.encode(hidden[3072:3080])
    assert packed.shape == (8, 17 + side_bytes) == (8, codec.row_bytes_)
    bits = np.unpackbits(packed[:, :17], axis=1, bitorder="little")
    np.testing.assert_array_equal(bits[:, :N_BITS], codec.encode_bits(hidden[3072:3080]))
    assert not bits[:, N_BITS:].any()


def test_the_factor_makes_the_product_of_a_row_with_itself_exact(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    rows = hidden[3072:3200]
    packed = codecs[2].encode(rows)
    mean = codecs[2]._model.mean.numpy().astype(np.float64)
    own = np.diag(estimates(codecs[2], rows - mean, packed)) - (rows - mean) @ mean
    np.testing.assert_allclose(own, np.square(rows - mean).sum(axis=1), rtol=2e-3)


def test_products_with_neighbours_shrink_far_less_than_those_of_bare_codes(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    rows = hidden[3072:4000]
    slopes = {}
    for side_bytes in (0, 2):
        codec = codecs[side_bytes]
        centred = rows - codec._model.mean.numpy()
        queries = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        found = estimates(codec, queries, codec.encode(rows))
        true = queries @ rows.T
        found, true = (
            table - queries @ codec._model.mean.numpy()[:, None] for table in (found, true)
        )
        near = true > 0.5 * np.linalg.norm(centred, axis=1)
        slopes[side_bytes] = (found[near] * true[near]).sum() / np.square(true[near]).sum()
    # Trained codes do not miss rows in random directions, so that a little bias stays.
    assert slopes[0] < 0.8
    assert 0.9 < slopes[2] < 1.2


def test_four_side_bytes_give_exact_norms_and_two_an_estimate(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    rows = hidden[3072:3400].astype(np.float64)
    true = np.square(rows).sum(axis=1)
    spread = np.square(rows - rows.mean(axis=0)).sum(axis=1)
    exact = codecs[4].side(codecs[4].encode(hidden[3072:3400])).squared_norm
    rough = codecs[2].side(codecs[2].encode(hidden[3072:3400])).squared_norm
    # |x|^2 = |m|^2 + 2 <m, x - m> + |x - m|^2, and <m, x - m> itself is an estimate.
    errors = [np.median(np.abs(found - true) / spread) for found in (exact, rough)]
    assert errors[0] < errors[1] < 0.5


def test_without_side_bytes_the_norm_is_the_decoded_rows(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    packed = codecs[0].encode(hidden[:64])
    side = codecs[0].side(packed)
    decoded = codecs[0].decode(packed).astype(np.float64)
    np.testing.assert_allclose(side.squared_norm, np.square(decoded).sum(axis=1), rtol=1e-4)
    assert (side.factor == 1).all()


def test_scores_without_side_bytes_are_products_with_decoded_rows(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    packed = codecs[0].encode(hidden[:64])
    expected = hidden[64:80].astype(np.float64) @ codecs[0].decode(packed).T
    found = estimates(codecs[0], hidden[64:80], packed)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_decoding_shrinks_estimates_to_the_least_squared_error(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    codec, rows = codecs[2], hidden[:3072]
    mean, approx = codec._model.mean.numpy(), codec.decode(codec.encode(rows))
    errors = [
        np.square(rows - mean - factor * (approx - mean)).sum() for factor in (0.85, 1.0, 1.15)
    ]
    assert errors[1] < min(errors[0], errors[2])
    assert 0.3 < float(codec._model.shrinkage) < 1


def test_rows_of_any_length_have_the_code_of_their_direction(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    codec, rows = codecs[4], hidden[3072:3104]
    mean = codec._model.mean.numpy()
    longer = codec.encode(mean + 8 * (rows - mean))
    np.testing.assert_array_equal(longer[:, :17], codec.encode(rows)[:, :17])
    near, far = codec.decode(codec.encode(rows)) - mean, codec.decode(longer) - mean
    np.testing.assert_allclose(far, 8 * near, rtol=5e-3, atol=1e-2)


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_unit_of_the_data_does_not_matter(hidden: np.ndarray, unit: float) -> None:
    plain = fitted(hidden[:2048], 4, n_steps=20).evaluate(hidden[2048:2304])
    scaled = fitted(hidden[:2048] * unit, 4, n_steps=20).evaluate(hidden[2048:2304] * unit)
    assert scaled.fvu == pytest.approx(plain.fvu, rel=0.05)


def test_side_bytes_are_counted(codecs: dict[int, BitCodec], hidden: np.ndarray) -> None:
    found = codecs[4].evaluate(hidden[3072:])
    assert found.bytes_per_vector == 21
    assert found.coded_bytes_per_vector == pytest.approx(found.code_bits / 8 + 4)


@pytest.mark.parametrize("side_bytes", [0, 2, 4])
def test_a_saved_codec_gives_the_same_rows_and_fingerprint(
    codecs: dict[int, BitCodec], hidden: np.ndarray, tmp_path: Path, side_bytes: int
) -> None:
    codec = codecs[side_bytes]
    codec.save(tmp_path / "codec")
    loaded = BitCodec.load(tmp_path / "codec")
    assert loaded.fingerprint_ == codec.fingerprint_
    packed = codec.encode(hidden[:100])
    np.testing.assert_array_equal(loaded.encode(hidden[:100]), packed)
    np.testing.assert_array_equal(loaded.decode(packed), codec.decode(packed))


def test_packed_files_say_how_many_side_bytes_their_rows_have(tmp_path: Path) -> None:
    rows = np.zeros((3, 4), np.uint8)
    with PackedWriter(tmp_path / "a.npy", n_bits=13, fingerprint="x", side_bytes=2) as writer:
        writer.append(rows)
    header, packed = open_packed(tmp_path / "a.npy")
    assert (header.row_bytes, header.side_bytes, packed.shape) == (4, 2, (3, 4))


def test_packed_files_of_format_1_have_no_side_bytes(tmp_path: Path) -> None:
    with PackedWriter(tmp_path / "a.npy", n_bits=13, fingerprint="x") as writer:
        writer.append(np.zeros((3, 2), np.uint8))
    path = tmp_path / "a.npy.json"
    content = json.loads(path.read_text())
    for later in ("side_bytes", "block_rows", "block_sha256", "compute", "seal"):
        del content[later]
    path.write_text(json.dumps(content | {"format_version": 1}))
    assert open_packed(tmp_path / "a.npy")[0].side_bytes == 0


def test_recentring_moves_the_mean_and_keeps_the_rest(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    codec, moved = codecs[2], hidden[3072:] + 3 * hidden.std(axis=0)
    other = codec.recenter(moved)
    assert other.fingerprint_ != codec.fingerprint_
    np.testing.assert_allclose(other._model.mean, moved.mean(axis=0), rtol=1e-4, atol=1e-3)
    assert other.evaluate(moved).fvu < 0.7 * codec.evaluate(moved).fvu
    torch.testing.assert_close(other._model.decoder_weight, codec._model.decoder_weight)


# bad input


@pytest.mark.parametrize("side_bytes", [1, 3, -2])
def test_other_numbers_of_side_bytes_are_refused(side_bytes: int, hidden: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="side_bytes must be 0, 2 or 4, got"):
        BitCodec(side_bytes=side_bytes).fit(hidden)


def test_a_row_too_long_for_its_side_bytes_is_named(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    rows = hidden[:600].copy()
    rows[550] *= 1e6
    with pytest.raises(
        ValueRangeError, match=r"row 550 is .* times as long as the rows of the fit"
    ):
        codecs[2].encode(rows)


def test_damaged_side_bytes_are_refused(codecs: dict[int, BitCodec], hidden: np.ndarray) -> None:
    packed = codecs[2].encode(hidden[:600])
    packed[599, 17:] = (0xFF, 0x7F)
    with pytest.raises(ValueRangeError, match="finite numbers of at least 0, got nan in row 599"):
        codecs[2].decode(packed)


def test_rows_without_their_side_bytes_are_refused(codecs: dict[int, BitCodec]) -> None:
    with pytest.raises(ShapeError, match=r"packed must be \(n, 19\), got \(3, 17\).*2 side bytes"):
        codecs[2].side(np.zeros((3, 17), np.uint8))


def test_the_row_is_counted_over_all_batches(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    rows = np.concatenate([hidden, hidden[:1000]])
    rows[4500] *= 1e6
    with pytest.raises(ValueRangeError, match=r"row 4500 is .* times as long"):
        codecs[2].encode(rows)


def test_the_row_is_counted_over_all_batches_of_a_stream(
    codecs: dict[int, BitCodec], hidden: np.ndarray
) -> None:
    rows = hidden[:300].copy()
    rows[250] *= 1e6
    with pytest.raises(ValueRangeError, match=r"row 250 is .* times as long"):
        list(codecs[2].encode_batches(rows, batch_size=100, refine="none"))


def test_a_code_at_right_angles_to_its_row_has_factor_0(codecs: dict[int, BitCodec]) -> None:
    side = SideRows(codecs[4]._model, side_bytes=4)
    row, across = torch.zeros(1, 576), torch.zeros(1, 576)
    row[0, 0], across[0, 1] = 100, 100
    across[0, 0] = 1e-6
    assert side.factors(side.write(row, across)).item() == 0
    assert side.factors(side.write(row, row)).item() == 1


def test_rows_of_zeros_stay_zeros() -> None:
    rows = torch.zeros(2, 32)
    rows[1, 3] = 1e-15
    unit = to_unit_rows(rows)
    assert unit[0].abs().max() == 0
    assert unit[1].norm().item() == pytest.approx(32**0.5)


def test_codecs_with_other_side_bytes_have_other_fingerprints(hidden: np.ndarray) -> None:
    codecs = [fitted(hidden[:1024], side_bytes, n_steps=2) for side_bytes in (2, 4)]
    assert codecs[0].fingerprint_ != codecs[1].fingerprint_


def test_changed_side_bytes_in_a_header_are_noticed(
    codecs: dict[int, BitCodec], tmp_path: Path
) -> None:
    codecs[2].save(tmp_path / "codec")
    path = tmp_path / "codec" / "config.json"
    parameters = json.loads(path.read_text())["parameters"] | {"side_bytes": 4}
    edit_json(path, parameters=parameters)
    with pytest.raises(FormatError, match="holds 2 side bytes, its header 4"):
        BitCodec.load(tmp_path / "codec")


def test_learning_in_steps_keeps_the_shrinkage_right(hidden: np.ndarray) -> None:
    stepped = BitCodec.preset("search", n_bits=N_BITS, n_steps=30, refine="fast")
    for _ in range(30):
        stepped.partial_fit(hidden[:1024])
    assert 0.3 < float(stepped._model.shrinkage) < 1


def test_learning_on_refuses_other_side_bytes(
    codecs: dict[int, BitCodec], hidden: np.ndarray, tmp_path: Path
) -> None:
    codecs[2].save(tmp_path / "codec")
    loaded = BitCodec.load(tmp_path / "codec").set_params(side_bytes=4)
    with pytest.raises(ConfigError, match="133 bits and 2 side bytes, the parameters now say 133"):
        loaded.partial_fit(hidden[:512])


def test_a_row_equal_to_the_mean_decodes_to_it(codecs: dict[int, BitCodec]) -> None:
    mean = codecs[4]._model.mean.numpy()
    np.testing.assert_allclose(codecs[4].decode(codecs[4].encode(mean)), mean, rtol=1e-5)
