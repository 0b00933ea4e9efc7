"""Training: reproducible, harmless to global state, better with its steps, honest in failure."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bitcodec import BitCodec, TrainingRecord
from bitcodec.batches import HiddenBatches, HiddenSource
from bitcodec.bits import unpack
from bitcodec.config import CodecConfig, Surrogate
from bitcodec.errors import ConfigError, ShapeError, ValueRangeError
from bitcodec.training import start_training

SMALL = {"n_bits": 40, "n_steps": 8, "batch_size": 128, "refine": "none"}


def small(**parameters: object) -> BitCodec:
    return BitCodec().set_params(**{**SMALL, **parameters})


def tensors_of(codec: BitCodec) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in codec._model.state_dict().items()}


def test_the_same_seed_gives_the_same_codec(hidden: np.ndarray) -> None:
    first, second = (small(seed=3).fit(hidden[:600]) for _ in range(2))
    assert first.fingerprint_ == second.fingerprint_


def test_another_seed_gives_another_codec(hidden: np.ndarray) -> None:
    first, second = (small(seed=seed).fit(hidden[:600]) for seed in (3, 4))
    assert first.fingerprint_ != second.fingerprint_


def test_the_codec_does_not_depend_on_the_kind_of_source(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", hidden[:600])
    sources: list[HiddenSource] = [hidden[:600], torch.from_numpy(hidden[:600]), tmp_path / "x.npy"]
    assert len({small().fit(source).fingerprint_ for source in sources}) == 1


def test_fitting_again_starts_anew(hidden: np.ndarray) -> None:
    codec = small().fit(hidden[600:1200])
    assert codec.fit(hidden[:600]).fingerprint_ == small().fit(hidden[:600]).fingerprint_


def test_a_fit_leaves_global_randomness_threads_and_dtype_as_they_were(hidden: np.ndarray) -> None:
    def state() -> tuple[object, ...]:
        numpy_state = np.random.get_state()  # noqa: NPY002 (the global state is what is tested)
        return (
            torch.get_rng_state().tolist(),
            str(numpy_state),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )

    before = state()
    small().fit(hidden[:600]).partial_fit(hidden[:100]).evaluate(hidden[:100])
    assert state() == before


def test_a_fit_leaves_its_data_as_it_was(hidden: np.ndarray) -> None:
    data = hidden[:600].copy()
    small().fit(data)
    np.testing.assert_array_equal(data, hidden[:600])


def test_the_unexplained_variance_falls_on_real_states(hidden: np.ndarray) -> None:
    codec = small(n_bits=200, n_steps=60, entropy_weight=0.0).fit(hidden[:3000])
    fvu = [record.fvu for record in codec.history_]
    assert np.mean(fvu[-10:]) < np.mean(fvu[:10]) - 0.03


def test_training_and_refit_beat_the_start_on_rows_that_were_held_out(hidden: np.ndarray) -> None:
    parameters = {"n_bits": 200, "entropy_weight": 0.0, "covariance_weight": 0.0}
    trained = small(n_steps=60, **parameters).fit(hidden[:3000])
    started = small(n_steps=1, learning_rate=1e-9, **parameters).fit(hidden[:3000])
    assert trained.evaluate(hidden[3000:]).fvu < started.evaluate(hidden[3000:]).fvu - 0.03


def test_the_refit_of_the_decoder_lowers_the_unexplained_variance(
    hidden: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    refitted = small(n_bits=100).fit(hidden[:3072]).evaluate(hidden[:3072]).fvu
    monkeypatch.setattr("bitcodec.finishing.REFIT_PENALTY", 1e12)
    assert refitted < small(n_bits=100).fit(hidden[:3072]).evaluate(hidden[:3072]).fvu - 0.002


def test_a_price_on_entropy_lowers_the_entropy(hidden: np.ndarray) -> None:
    free, priced = (
        small(n_bits=100, n_steps=60, initial_activity=0.2, entropy_weight=weight)
        .fit(hidden[:2000])
        .evaluate(hidden[2000:])
        for weight in (0.0, 4.0)
    )
    assert priced.entropy_bits < 0.8 * free.entropy_bits


def test_a_price_on_covariance_lowers_the_covariance(hidden: np.ndarray) -> None:
    free, priced = (
        np.abs(np.cov(codec.encode_bits(hidden[2000:]), rowvar=False)).sum()
        for codec in (
            small(
                n_bits=60,
                n_steps=60,
                initial_activity=0.3,
                entropy_weight=0.0,
                covariance_weight=weight,
            ).fit(hidden[:2000])
            for weight in (1e-9, 100.0)
        )
    )
    assert priced < 0.9 * free


def test_no_bit_is_on_in_more_than_half_of_the_rows_after_a_fit(hidden: np.ndarray) -> None:
    codec = small(initial_activity=0.8, n_bits=100).fit(hidden[:640])
    assert codec.statistics_.activity.max() <= 0.5
    assert codec.encode_bits(hidden[:640]).mean(axis=0).max() <= 0.51


def test_statistics_count_the_bits_of_the_rows_of_the_fit(hidden: np.ndarray) -> None:
    codec = small().fit(hidden[:640])
    counts = codec.encode_bits(hidden[:640]).sum(axis=0)
    assert codec.statistics_.n_rows == 640
    np.testing.assert_allclose(codec.statistics_.counts, counts, atol=1)


def test_every_step_is_recorded_and_told(hidden: np.ndarray) -> None:
    told: list[TrainingRecord] = []
    codec = small().fit(hidden[:600], on_record=told.append)
    assert told == codec.history_
    assert [record.step for record in told] == list(range(1, 9))
    assert all(record.n_steps == 8 and 0 < record.entropy_bits <= 40 for record in told)


def test_the_penalties_of_a_fit_start_late(hidden: np.ndarray) -> None:
    first, *_, last = small(n_steps=20).fit(hidden[:600]).history_
    assert first.loss == pytest.approx(first.fvu)
    assert last.loss > last.fvu + 1e-3


def test_every_surrogate_trains_to_a_codec_of_its_own(hidden: np.ndarray) -> None:
    kinds = ("sigmoid", "identity", "published")
    codecs = [small(surrogate=kind).fit(hidden[:600]) for kind in kinds]
    assert len({codec.fingerprint_ for codec in codecs}) == 3
    assert max(codec.evaluate(hidden[:600]).fvu for codec in codecs) < 1


def test_data_larger_than_the_shuffle_buffer_trains(
    hidden: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitcodec.batches.SHUFFLE_BUFFER_BYTES", 512 * 576 * 4)
    codec = small(n_steps=40).fit(hidden[:1100])
    assert all(np.isfinite(record.loss) for record in codec.history_)


# what fails


@pytest.mark.parametrize("n_steps", [1, 8])
def test_training_that_diverges_says_to_lower_the_rate(hidden: np.ndarray, n_steps: int) -> None:
    codec = small(learning_rate=1e37, n_steps=n_steps)
    with pytest.raises(ValueRangeError, match=r"lower learning_rate \(now 1e\+37\)") as raised:
        codec.fit(hidden[:600])
    assert "\n" not in str(raised.value)


def test_a_fit_that_fails_leaves_the_fitted_codec_as_it_was(hidden: np.ndarray) -> None:
    codec = small().fit(hidden[:600])
    before = codec.encode(hidden[:50])
    with pytest.raises(ValueRangeError, match="lower learning_rate"):
        codec.set_params(learning_rate=1e37).fit(hidden[:600])
    np.testing.assert_array_equal(codec.encode(hidden[:50]), before)


def test_fewer_rows_than_a_minibatch_are_refused_with_the_number_to_use(
    hidden: np.ndarray,
) -> None:
    with pytest.raises(ShapeError, match=r"100 rows, fewer than a batch of 128: .*batch_size=100"):
        small().fit(hidden[:100])


def test_a_generator_is_refused_before_it_is_read(hidden: np.ndarray) -> None:
    def generate() -> Iterator[np.ndarray]:
        pytest.fail("the generator must not be read")
        yield hidden

    with pytest.raises(ConfigError, match="a generator can be read once: pass a list, a file"):
        small().fit(generate())


class EmptyTheSecondTime:
    """A source whose iterator is used up after one pass, though it is not its own iterator."""

    def __init__(self, rows: np.ndarray) -> None:
        self._iterator = iter([rows])
        self._n_passes = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self._n_passes += 1
        assert self._n_passes < 100, "read over and over: an endless loop"
        return self._iterator


def test_a_source_that_is_empty_the_second_time_is_refused(hidden: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="gave no rows when it was read again: pass a list"):
        small().fit(EmptyTheSecondTime(hidden[:600]))


def test_provenance_that_json_cannot_hold_is_refused_before_training(hidden: np.ndarray) -> None:
    codec = small()
    with pytest.raises(ConfigError, match="provenance must be JSON-ready"):
        codec.fit(
            hidden[:600],
            provenance={"layer": np.int64(3)},
            on_record=lambda _: pytest.fail("training must not begin"),
        )


# minibatch by minibatch


def test_training_by_minibatches_lowers_the_unexplained_variance(hidden: np.ndarray) -> None:
    codec = small(n_bits=100, n_steps=30, entropy_weight=0.0)
    for index in range(30):
        start = index * 512 % 3072
        codec.partial_fit(hidden[start : start + 512])
    fvu = [record.fvu for record in codec.history_]
    assert [record.step for record in codec.history_] == list(range(1, 31))
    assert np.mean(fvu[-6:]) < np.mean(fvu[6:12]) - 0.01


def test_statistics_after_a_minibatch_count_its_rows(hidden: np.ndarray) -> None:
    codec = small().partial_fit(hidden[:256]).partial_fit(hidden[256:400])
    bits = unpack(codec.encode(hidden[256:400]), n_bits=40)
    assert codec.statistics_.n_rows == 144
    np.testing.assert_array_equal(codec.statistics_.counts, bits.sum(axis=0))


def test_a_minibatch_may_be_a_source_of_several_batches(hidden: np.ndarray) -> None:
    parts = small().partial_fit([hidden[:100], hidden[100:256]])
    assert parts.fingerprint_ == small().partial_fit(hidden[:256]).fingerprint_


def test_a_fitted_codec_goes_on_learning_a_little(hidden: np.ndarray) -> None:
    codec = small(n_bits=100, entropy_weight=0.0).fit(hidden[:600])
    before, fvu = tensors_of(codec), codec.evaluate(hidden[600:1200]).fvu
    for start in range(0, 3000, 300):
        codec.partial_fit(hidden[start : start + 300])
    after = tensors_of(codec)
    assert np.abs(after["encoder_weight"] - before["encoder_weight"]).max() > 0
    np.testing.assert_array_equal(after["mean"], before["mean"])
    assert codec.evaluate(hidden[600:1200]).fvu < fvu + 0.005


def test_learning_goes_on_from_the_last_fit_not_from_minibatches_before_it(
    hidden: np.ndarray,
) -> None:
    plain = small().fit(hidden[:600]).partial_fit(hidden[600:900])
    mixed = small().partial_fit(hidden[:300]).fit(hidden[:600]).partial_fit(hidden[600:900])
    assert mixed.fingerprint_ == plain.fingerprint_


def test_a_loaded_codec_goes_on_as_the_fitted_one_would(hidden: np.ndarray, tmp_path: Path) -> None:
    fitted = small().fit(hidden[:600])
    fitted.save(tmp_path / "codec")
    loaded = BitCodec.load(tmp_path / "codec").partial_fit(hidden[600:900])
    assert loaded.fingerprint_ == fitted.partial_fit(hidden[600:900]).fingerprint_


def test_a_copy_does_not_learn_with_its_original(hidden: np.ndarray) -> None:
    codec = small().fit(hidden[:600])
    other = copy.deepcopy(codec)
    codec.partial_fit(hidden[:300])
    assert other.fingerprint_ == small().fit(hidden[:600]).fingerprint_
    assert other.fingerprint_ != codec.fingerprint_


@pytest.mark.parametrize("n_rows", [0, 1])
@pytest.mark.parametrize("is_fitted", [False, True])
def test_a_minibatch_of_less_than_two_rows_is_refused(
    hidden: np.ndarray, n_rows: int, is_fitted: bool
) -> None:
    codec = small().fit(hidden[:600]) if is_fitted else small()
    with pytest.raises(ShapeError, match=f"at least 2 rows to learn from, got {n_rows}"):
        codec.partial_fit(hidden[:n_rows])


def test_a_minibatch_of_another_width_is_refused(hidden: np.ndarray) -> None:
    codec = small().fit(hidden[:600])
    with pytest.raises(ShapeError, match=r"hidden must be \(n, 576\), got \(300, 100\)"):
        codec.partial_fit(hidden[:300, :100])


class Readings(TorchDispatchMode):
    """Count what makes the host wait for a GPU: one number read from a tensor."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.count += "_local_scalar_dense" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("surrogate", ["sigmoid", "gumbel"])
def test_a_step_reads_its_numbers_from_the_device_together(
    hidden: np.ndarray, surrogate: Surrogate
) -> None:
    config = CodecConfig(n_bits=64, batch_size=256, n_steps=40, surrogate=surrogate)
    batches = HiddenBatches(hidden[:1024])
    trainer = start_training(batches, config, device=torch.device("cpu"))
    rows = torch.from_numpy(hidden[:256])
    trainer.step(rows)
    with Readings() as readings:  # type: ignore[no-untyped-call]
        record = trainer.step(rows)
        assert readings.count == 0
        float(torch.ones(()))
        assert readings.count == 1
    assert 0 < record.fvu < 1
