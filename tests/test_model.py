"""The autoencoder, its start, its decoder's regression and its packed coder, against float64."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcodec import BitCodec, start
from bitcodec.batches import HiddenBatches
from bitcodec.bits import pack, unpack
from bitcodec.coder import PackedCoder
from bitcodec.config import CodecConfig
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.model import BinaryAutoencoder
from bitcodec.normal_equations import NormalEquations, fit_decoder
from bitcodec.products import chunk_rows
from bitcodec.start import Sample, draw_sample, start_model

CPU = torch.device("cpu")
CHUNK_ROWS = chunk_rows(21, CPU)


def random_model(*, n_dims: int = 12, n_bits: int = 21, seed: int = 0) -> BinaryAutoencoder:
    """Draw an autoencoder of random weights, off-centre and of unequal scales."""
    generator = torch.Generator().manual_seed(seed)
    model = BinaryAutoencoder(n_dims=n_dims, n_bits=n_bits)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.mean):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        model.scale.copy_(0.1 + torch.rand(n_dims, generator=generator))
    return model


def random_rows(n_rows: int, *, n_dims: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.randn(n_rows, n_dims, generator=torch.Generator().manual_seed(seed))


def weights_of(model: BinaryAutoencoder) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def logits_in_float64(model: BinaryAutoencoder, hidden: np.ndarray) -> np.ndarray:
    w = weights_of(model)
    scale = np.where(w["scale"] > 0, w["scale"], np.inf)
    logits: np.ndarray = (hidden.astype(np.float64) - w["mean"]) / scale @ w["encoder_weight"].T
    logits += w["encoder_bias"]
    return logits


def decoded_in_float64(model: BinaryAutoencoder, bits: np.ndarray) -> np.ndarray:
    w = weights_of(model)
    standardised: np.ndarray = bits.astype(np.float64) @ w["decoder_weight"] + w["decoder_bias"]
    decoded: np.ndarray = standardised * w["scale"] + w["mean"]
    return decoded


# the autoencoder


def test_forward_is_step_of_a_linear_map_and_a_linear_map_back() -> None:
    model, z = random_model(), random_rows(50)
    bits, reconstructed = model(z)
    w = weights_of(model)
    logits = z.double().numpy() @ w["encoder_weight"].T + w["encoder_bias"]
    np.testing.assert_array_equal(bits.detach().numpy(), logits >= 0)
    expected = (logits >= 0) @ w["decoder_weight"] + w["decoder_bias"]
    np.testing.assert_allclose(reconstructed.detach().numpy(), expected, atol=1e-5)


def test_standardising_subtracts_the_mean_and_divides_by_the_scale() -> None:
    model, x = random_model(), random_rows(5)
    w = weights_of(model)
    expected = (x.double().numpy() - w["mean"]) / w["scale"]
    np.testing.assert_allclose(model.standardise(x).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_dimension_standardises_to_zero() -> None:
    model = random_model()
    model.scale[3] = 0
    assert model.standardise(random_rows(5))[:, 3].tolist() == [0.0] * 5


@settings(max_examples=20)
@given(which=st.lists(st.booleans(), min_size=21, max_size=21), seed=st.integers(0, 5))
def test_flipping_bits_inverts_them_and_keeps_every_reconstruction(
    which: list[bool], seed: int
) -> None:
    model, z = random_model(seed=seed), random_rows(40)
    with torch.no_grad():
        bits, reconstructed = model(z)
        model.flip(torch.tensor(which))
        flipped_bits, flipped_reconstructed = model(z)
    expected = np.where(which, 1 - bits.numpy(), bits.numpy())
    np.testing.assert_array_equal(flipped_bits.numpy(), expected)
    torch.testing.assert_close(flipped_reconstructed, reconstructed, rtol=1e-4, atol=1e-4)


# where training starts


@pytest.mark.parametrize("activity", [0.05, 0.3, 0.5])
def test_every_bit_starts_at_the_chosen_activity(hidden: np.ndarray, activity: float) -> None:
    settings_ = CodecConfig(n_bits=100, initial_activity=activity, batch_size=256)
    generator = torch.Generator().manual_seed(0)
    sample = draw_sample(HiddenBatches(hidden[:2048]), settings_, generator)
    model = start_model(sample, settings_, generator=generator, device=CPU)
    with torch.no_grad():
        found = (model.logits(model.standardise(sample.rows)) >= 0).double().mean(dim=0)
    np.testing.assert_allclose(found.numpy(), activity, atol=0.002)


def test_logits_start_with_unit_variance(hidden: np.ndarray) -> None:
    settings_ = CodecConfig(n_bits=50, batch_size=256)
    generator = torch.Generator().manual_seed(0)
    sample = draw_sample(HiddenBatches(hidden[:2048]), settings_, generator)
    model = start_model(sample, settings_, generator=generator, device=CPU)
    with torch.no_grad():
        spread = model.logits(model.standardise(sample.rows)).std(dim=0)
    np.testing.assert_allclose(spread.numpy(), 1, rtol=1e-4)


def test_more_bits_than_rows_start_in_different_directions() -> None:
    sample = Sample(mean=torch.zeros(12), scale=torch.ones(12), rows=random_rows(30))
    generator = torch.Generator().manual_seed(0)
    settings_ = CodecConfig(n_bits=50, batch_size=2)
    model = start_model(sample, settings_, generator=generator, device=CPU)
    directions = torch.nn.functional.normalize(model.encoder_weight.detach())
    cosines = (directions @ directions.T).abs() - torch.eye(50)
    assert (cosines > 0.999).double().mean() < 0.01


def test_the_start_already_explains_real_states_in_part(hidden: np.ndarray) -> None:
    settings_ = CodecConfig(n_bits=300, batch_size=256)
    generator = torch.Generator().manual_seed(0)
    sample = draw_sample(HiddenBatches(hidden[:3072]), settings_, generator)
    model = start_model(sample, settings_, generator=generator, device=CPU)
    with torch.no_grad():
        z = model.standardise(torch.from_numpy(hidden[3072:]))
        assert (model(z)[1] - z).square().mean() < 0.8 * z.square().mean()


def test_mean_and_scale_are_those_of_the_data(hidden: np.ndarray) -> None:
    data = hidden[:2048]
    generator = torch.Generator().manual_seed(0)
    sample = draw_sample(HiddenBatches(data), CodecConfig(batch_size=256), generator)
    np.testing.assert_allclose(sample.mean, data.mean(axis=0, dtype=np.float64), atol=1e-4)
    np.testing.assert_allclose(sample.scale, data.astype(np.float64).std(axis=0), rtol=1e-5)


def test_the_scale_survives_a_mean_that_dwarfs_it() -> None:
    data = (1e4 + np.random.default_rng(0).normal(size=(2000, 3))).astype(np.float32)
    generator = torch.Generator().manual_seed(0)
    sample = draw_sample(HiddenBatches(data), CodecConfig(batch_size=100), generator)
    np.testing.assert_allclose(sample.scale, data.astype(np.float64).std(axis=0), rtol=1e-5)


def test_the_sample_of_rows_is_bounded_and_the_moments_see_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start, "START_ROWS", 100)
    rows = random_rows(1000)
    generator = torch.Generator().manual_seed(0)
    sample = draw_sample(HiddenBatches(rows), CodecConfig(batch_size=50), generator)
    assert sample.rows.shape == (100, 12)
    np.testing.assert_allclose(sample.mean, rows.mean(dim=0), atol=1e-6)


def draw(data: np.ndarray, **parameters: object) -> Sample:
    config = CodecConfig.from_dict({"batch_size": 8, **parameters})
    return draw_sample(HiddenBatches(data), config, torch.Generator().manual_seed(0))


def constant_in(*dims: int) -> np.ndarray:
    data = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    data[:, dims] = 0.1
    return data


def test_constant_dimensions_are_refused_and_the_first_is_named() -> None:
    with pytest.raises(ConfigError, match=r"2 of 4 dimensions never vary \(first: 1\): drop") as e:
        draw(constant_in(1, 3))
    assert "\n" not in str(e.value)


def test_constant_dimensions_are_kept_with_a_scale_of_zero_on_request() -> None:
    sample = draw(constant_in(1, 3), constant="keep")
    assert (sample.scale == 0).tolist() == [False, True, False, True]
    assert sample.mean[[1, 3]].tolist() == pytest.approx([0.1, 0.1])


def test_a_dimension_that_varies_by_less_than_float32_can_tell_counts_as_constant() -> None:
    data = constant_in()
    data[:, 2] = 1e4
    data[::2, 2] = np.nextafter(np.float32(1e4), np.float32(2e4))
    with pytest.raises(ConfigError, match=r"1 of 4 dimensions never vary \(first: 2\)"):
        draw(data)


@pytest.mark.parametrize("scaling", ["dimension", "global"])
def test_a_dimension_of_noise_beside_the_others_is_taken_as_constant_and_said_to_be(
    scaling: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="bitcodec.start")
    data = constant_in()
    data[:, 1] *= 1e-7  # around 0, where no rounding of its own mean would tell
    data[:, 3] *= 1e-4
    sample = draw(data, scaling=scaling)
    assert (sample.scale == 0).tolist() == [False, True, False, False]
    assert "1 of 4 dimensions vary by float32's rounding alone (first: 1)" in caplog.text


@pytest.mark.parametrize("constant", ["refuse", "keep"])
def test_data_that_never_varies_is_refused_whatever_the_policy(constant: str) -> None:
    with pytest.raises(ConfigError, match="every dimension of hidden is constant: there is noth"):
        draw(constant_in(0, 1, 2, 3), constant=constant)


def test_fewer_rows_than_a_batch_are_refused_with_the_number_to_use() -> None:
    with pytest.raises(ShapeError, match="7 rows, fewer than a batch of 8: pass more rows or ba"):
        draw(constant_in()[:7])


def test_data_without_rows_is_refused() -> None:
    with pytest.raises(ShapeError, match="hidden has no rows: pass at least a batch"):
        draw(constant_in()[:0])


# the decoder's regression


def by_least_squares(
    bits: np.ndarray, targets: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solve ridge regression as ordinary least squares with rows added for the penalty."""
    h = bits.shape[1]
    left = np.block([[bits, np.ones((len(bits), 1))], [np.sqrt(penalty) * np.eye(h, h + 1)]])
    right = np.concatenate([targets, np.zeros((h, targets.shape[1]))])
    solved = np.linalg.lstsq(left, right, rcond=None)[0]
    return solved[:h], solved[h]


@settings(max_examples=20)
@given(
    n_rows=st.sampled_from([1, 7, 8, 9, 200]),
    penalty=st.sampled_from([0.1, 1.0, 100.0]),
    seed=st.integers(0, 9),
)
def test_the_regression_equals_least_squares_with_a_ridge(
    n_rows: int, penalty: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    bits = (generator.random((n_rows, 9)) < 0.3).astype(np.float32)
    targets = generator.normal(size=(n_rows, 4)).astype(np.float32)
    sums = NormalEquations.empty(n_bits=9, n_dims=4, device=CPU)
    for part in np.array_split(np.arange(n_rows), 3):
        sums.update(torch.from_numpy(bits[part]), torch.from_numpy(targets[part]))
    weight, bias = sums.solve(penalty=penalty)
    expected = by_least_squares(bits, targets, penalty)
    np.testing.assert_allclose(weight.numpy(), expected[0], atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), expected[1], atol=1e-5)


def test_a_bit_that_never_varies_gets_no_weight() -> None:
    bits = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    sums = NormalEquations.empty(n_bits=3, n_dims=1, device=CPU)
    sums.update(bits, torch.tensor([[1.0], [5.0]]))
    weight, bias = sums.solve(penalty=1e-9)
    np.testing.assert_allclose(weight.numpy(), [[0], [0], [4]], atol=1e-6)
    np.testing.assert_allclose(bias.numpy(), [1], atol=1e-6)


def test_refitting_moves_a_decoder_to_the_regression_when_the_penalty_is_small() -> None:
    model, z = random_model(), random_rows(500)
    bits = (model.logits(z).detach() >= 0).float()
    fit_decoder(model, [(bits[:200], z[:200]), (bits[200:], z[200:])], penalty=1e-6)
    weight, bias = by_least_squares(bits.numpy(), z.numpy(), 1e-6)
    np.testing.assert_allclose(model.decoder_weight.detach().numpy(), weight, atol=1e-4)
    np.testing.assert_allclose(model.decoder_bias.detach().numpy(), bias, atol=1e-4)


def test_refitting_leaves_a_decoder_where_it_was_when_the_penalty_is_large() -> None:
    model, z = random_model(), random_rows(500)
    before = model.decoder_weight.detach().clone()
    fit_decoder(model, [((model.logits(z).detach() >= 0).float(), z)], penalty=1e9)
    torch.testing.assert_close(model.decoder_weight.detach(), before, rtol=0, atol=1e-4)


# packed rows


@pytest.mark.parametrize("n_rows", [0, 1, 7, 9, CHUNK_ROWS, 2 * CHUNK_ROWS + 1])
def test_packed_codes_equal_float64_but_where_a_logit_is_all_but_zero(n_rows: int) -> None:
    model, hidden = random_model(), random_rows(n_rows)
    model.scale[3] = 0
    found = unpack(PackedCoder(model).encode(hidden), n_bits=21)
    logits = logits_in_float64(model, hidden.numpy())
    clear = np.abs(logits) > 1e-4
    assert clear.sum() >= 0.99 * clear.size
    np.testing.assert_array_equal(found[clear], (logits >= 0)[clear])


def test_packed_codes_of_real_states_equal_float64(codec: BitCodec, hidden: np.ndarray) -> None:
    found = unpack(codec.encode(hidden), n_bits=codec.n_bits_)
    logits = logits_in_float64(codec._model, hidden)
    clear = np.abs(logits) > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found[clear], (logits >= 0)[clear])


@pytest.mark.parametrize("n_rows", [0, 1, 7, 9, CHUNK_ROWS, 2 * CHUNK_ROWS + 1])
def test_decoded_rows_equal_float64(n_rows: int) -> None:
    model = random_model()
    bits = (np.random.default_rng(0).random((n_rows, 21)) < 0.5).astype(np.uint8)
    found = PackedCoder(model).decode(pack(bits))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, decoded_in_float64(model, bits), rtol=1e-5, atol=1e-5)


def test_a_mean_that_dwarfs_the_data_costs_no_bits() -> None:
    model, z = random_model(), random_rows(2000)
    with torch.no_grad():
        model.mean.fill_(4096.0)
        model.scale.fill_(1.0)
    hidden = (z + model.mean).numpy()
    found = unpack(PackedCoder(model).encode(torch.from_numpy(hidden)), n_bits=21)
    logits = logits_in_float64(model, hidden)
    clear = np.abs(logits) > 1e-4
    np.testing.assert_array_equal(found[clear], (logits >= 0)[clear])


def test_a_coder_does_not_follow_later_changes_of_its_model() -> None:
    model, hidden = random_model(), random_rows(50)
    coder = PackedCoder(model)
    packed = coder.encode(hidden)
    decoded = coder.decode(packed)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.mean, model.scale):
            tensor.mul_(-3.0)
    np.testing.assert_array_equal(coder.encode(hidden), packed)
    np.testing.assert_array_equal(coder.decode(packed), decoded)


def test_a_pad_bit_beyond_the_first_chunk_is_named_by_its_place_in_all_rows() -> None:
    packed = np.zeros((CHUNK_ROWS + 40, 3), np.uint8)
    packed[CHUNK_ROWS + 9, -1] = 0x80
    with pytest.raises(ValueRangeError, match=f"row {CHUNK_ROWS + 9} has a pad bit set"):
        PackedCoder(random_model()).decode(packed)


def test_many_threads_may_share_one_codec(codec: BitCodec, hidden: np.ndarray) -> None:
    parts = np.array_split(hidden[:1600], 16)
    work: Callable[[np.ndarray], np.ndarray] = lambda part: codec.decode(codec.encode(part))  # noqa: E731
    expected = [work(part) for part in parts]
    with ThreadPoolExecutor(16) as threads:
        for found, single in zip(threads.map(work, parts), expected, strict=True):
            np.testing.assert_array_equal(found, single)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_coder_on_the_gpu_equals_float64() -> None:
    model, hidden = random_model(), random_rows(3000)
    on_gpu = PackedCoder(random_model().to("cuda"))
    logits = logits_in_float64(model, hidden.numpy())
    clear = np.abs(logits) > 1e-4
    bits = unpack(on_gpu.encode(hidden), n_bits=21)
    np.testing.assert_array_equal(bits[clear], (logits >= 0)[clear])
    np.testing.assert_allclose(
        on_gpu.decode(pack(bits)), decoded_in_float64(model, bits), rtol=1e-5, atol=1e-5
    )


def test_global_scaling_divides_every_dimension_by_one_number(hidden: np.ndarray) -> None:
    config = CodecConfig(n_bits=8, scaling="global")
    sample = draw_sample(HiddenBatches(hidden), config, torch.Generator().manual_seed(0))
    expected = np.sqrt(hidden.var(axis=0, dtype=np.float64).mean())
    np.testing.assert_allclose(sample.scale.numpy(), expected, rtol=1e-5)


def test_global_scaling_leaves_constant_dimensions_at_zero() -> None:
    rows = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32) * [1, 7, 0]
    config = CodecConfig(n_bits=8, batch_size=64, scaling="global", constant="keep")
    batches = HiddenBatches(rows.astype(np.float32))
    sample = draw_sample(batches, config, torch.Generator().manual_seed(0))
    assert sample.scale[2] == 0
    assert sample.scale[0] == sample.scale[1] > 0
