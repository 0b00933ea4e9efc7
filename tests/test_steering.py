"""Targets, validation rows, early stopping, revival, and the warnings of a fit."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec.bit_products import pack
from bitcodec.config import CodecConfig
from bitcodec.errors import ConfigError, ShapeError, TrainingWarning
from bitcodec.model import BinaryAutoencoder
from bitcodec.objective import Terms
from bitcodec.revival import KEPT_BATCHES, Revival
from bitcodec.steering import Steering
from bitcodec.validation import Validation

STEADY: dict[str, Any] = {"n_bits": 400, "n_steps": 300, "batch_size": 256}


def rows_of(batches: HiddenBatches) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    parts = batches.shuffled(16, generator, keep_rest=True)
    return sorted(int(row[0]) for part in parts for row in part)


# targets


@pytest.mark.parametrize(
    ("target", "measure"),
    [
        ({"target_bits": 60.0}, "entropy_bits"),
        ({"target_fvu": 0.75}, "fvu"),
    ],
)
def test_a_wish_is_met_on_rows_kept_from_training(
    hidden: np.ndarray, target: dict[str, Any], measure: str
) -> None:
    codec = BitCodec(**STEADY, **target)
    codec.fit(hidden[:3072], validation=hidden[3072:])
    wanted = next(value for name, value in target.items() if name.startswith("target"))
    reached = getattr(codec.evaluate(hidden[3072:]), measure)
    assert reached == pytest.approx(wanted, rel=0.05)


def test_the_weight_that_was_found_is_told_and_saved_but_not_the_parameter(
    hidden: np.ndarray, tmp_path: object
) -> None:
    codec = BitCodec(n_bits=100, n_steps=60, batch_size=256, target_bits=15.0)
    codec.fit(hidden)
    codec.save(f"{tmp_path}/codec")
    found = BitCodec.load(f"{tmp_path}/codec").entropy_weight
    assert codec.entropy_weight == 0.4
    assert found != 0.4
    assert len({record.entropy_weight for record in codec.history_}) > 10


def test_a_wish_that_cannot_be_met_is_admitted_with_what_was_reached(hidden: np.ndarray) -> None:
    codec = BitCodec(n_bits=30, n_steps=40, batch_size=256, target_fvu=0.05)
    with pytest.warns(TrainingWarning, match=r"target_fvu=0.05 was not reached.*an FVU of 0\.\d+"):
        codec.fit(hidden)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"target_bits": 0.0}, "target_bits must be above 0"),
        ({"target_bits": 101.0, "n_bits": 100}, "at most the 100 bits of a code, got 101"),
        ({"target_bits": 10.0, "patience": 3}, "pass one of the two"),
        ({"target_fvu": 1.0}, "target_fvu must be above 0 and below 1, got 1"),
        ({"target_fvu": 0.2, "target_bits": 10.0}, "exclude each other"),
        ({"target_bits": 10.0, "entropy_weight": 0.0}, "needs an entropy_weight above 0"),
        ({"target_fvu": 0.2, "side_bytes": 2}, "side_bytes must be 0 with a target"),
    ],
)
def test_an_impossible_wish_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CodecConfig(**parameters)


def test_steering_finds_the_weight_of_a_rate_that_falls_with_it() -> None:
    config = CodecConfig(target_bits=200.0, n_steps=1000, refine="none")
    steering, bits = Steering(config), 500.0
    for step in range(1000):
        settled = 80.0 / steering.weight  # what training would end at
        bits += (settled - bits) / 60  # and how long it takes
        steering.update(progress=step / 1000, fvu=0.3, entropy_bits=bits)
    assert bits == pytest.approx(200.0, rel=0.02)


@pytest.mark.parametrize("slope", [-0.1, -0.3, -0.9])
@pytest.mark.parametrize(("target", "sign"), [("target_bits", 1), ("target_fvu", -1)])
def test_a_weight_settles_in_few_measures_whatever_the_slope(
    target: str, sign: int, slope: float
) -> None:
    config = CodecConfig.from_dict({target: 0.25})
    steering = Steering(config)
    place = math.log(steering.weight)

    def measured() -> float:
        return 0.2 * math.exp(sign * slope * (math.log(steering.weight) - place))

    for _ in range(4):
        steering.settle(fvu=measured(), entropy_bits=measured())
    assert measured() == pytest.approx(0.25, rel=0.01)


# rows kept from training


@pytest.mark.parametrize("n_rows", [40, 399, 400, 5000])
def test_a_split_gives_every_row_to_one_side(n_rows: int) -> None:
    rows = np.arange(n_rows, dtype=np.float32)[:, None]
    rest, held = HiddenBatches(rows).split(one_in=20)
    assert sorted(rows_of(rest) + rows_of(held)) == list(range(n_rows))
    assert rest.n_rows == len(rows_of(rest))
    assert held.n_rows == len(rows_of(held))
    assert n_rows / 40 <= held.n_rows <= n_rows / 10


def test_a_split_of_a_stream_is_the_same_at_every_reading() -> None:
    rows = np.arange(6000, dtype=np.float32)[:, None]
    rest, held = HiddenBatches([rows[:2500], rows[2500:]]).split(one_in=4)
    assert rows_of(held) == rows_of(held)
    assert sorted(rows_of(rest) + rows_of(held)) == list(range(6000))
    assert len(rows_of(held)) > 1000


def test_a_split_of_many_rows_holds_whole_stretches_of_text() -> None:
    rows = np.arange(150_000, dtype=np.float32)[:, None]
    rest, held = HiddenBatches(rows).split(one_in=20)
    assert sorted(rows_of(rest) + rows_of(held)) == list(range(150_000))
    kept = rows_of(held)
    edges = np.flatnonzero(np.diff(kept) > 1)
    assert len(edges) + 1 == 8  # runs of 1,024 rows
    assert len(kept) == held.n_rows == 8 * 1024


def test_too_few_rows_to_measure_on_are_refused(hidden: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="10 rows are kept from training to measure on"):
        BitCodec(n_bits=20, n_steps=4, batch_size=64, patience=2).fit(
            hidden[:400], validation=hidden[400:410]
        )


def test_training_stops_when_it_lost_patience_and_keeps_the_best(
    hidden: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitcodec.validation.START", 0.1)
    scores = iter([0.5, 0.4, 0.6, 0.7, 0.8])
    seen: list[torch.Tensor] = []

    def measure(validation: Validation, model: BinaryAutoencoder) -> tuple[float, float]:
        seen.append(model.encoder_weight.detach().clone())
        return next(scores), 0.0

    monkeypatch.setattr(Validation, "measure", measure)
    codec = BitCodec(n_bits=30, n_steps=50, batch_size=128, patience=2, refine="none")
    codec.fit(hidden[:2000])
    assert len(codec.history_) == 8  # looks after steps 5, 6, 7, 8
    assert torch.equal(codec._model.encoder_weight.abs(), seen[1].abs())  # but for polarity


# revival


def trained_model() -> tuple[BinaryAutoencoder, torch.Tensor, Terms]:
    generator = torch.Generator().manual_seed(0)
    model = BinaryAutoencoder(n_dims=8, n_bits=6)
    rows = torch.randn(4000, 8, generator=generator)
    with torch.no_grad():
        model.encoder_weight.normal_(generator=generator)
        model.decoder_weight.normal_(generator=generator).mul_(0.1)
        model.encoder_bias[2] = -1e6
        model.encoder_weight[5] = model.encoder_weight[1]
        model.encoder_bias[5] = model.encoder_bias[1]
    bits, reconstructed = model(rows)
    zero = torch.zeros(())
    terms = Terms(zero, zero, zero, zero, bits.detach(), (rows - reconstructed).detach())
    return model, rows, terms


def test_dead_and_double_bits_start_anew_and_the_others_stay() -> None:
    model, rows, terms = trained_model()
    revival = Revival(6, device=torch.device("cpu"))
    for _ in range(3):
        revival.observe(terms.bits)
    before = model.encoder_weight.detach().clone()
    restarted = revival.revive(model, rows, terms, activity=0.1)
    assert restarted.tolist() == [False, False, True, False, False, True]
    assert torch.equal(model.encoder_weight[~restarted], before[~restarted])
    activity = model.encode(rows).mean(dim=0)[restarted]
    assert activity.tolist() == pytest.approx([0.1, 0.1], abs=0.01)


def test_a_restarted_bit_lowers_the_error_and_a_double_leaves_its_share_behind() -> None:
    model, rows, terms = trained_model()
    doubled = model.decoder_weight[1].detach() + model.decoder_weight[5].detach()
    revival = Revival(6, device=torch.device("cpu"))
    revival.observe(terms.bits)
    revival.revive(model, rows, terms, activity=0.1)
    assert torch.allclose(model.decoder_weight[1], doubled)
    residual = rows - model.reconstruct(model.encode(rows))
    centred = residual - residual.mean(dim=0)
    before = terms.residual - terms.residual.mean(dim=0)
    assert float(centred.square().mean()) < float(before.square().mean())


def test_revival_waits_for_enough_rows_and_ends_before_the_rate_decays() -> None:
    revival = Revival(3, device=torch.device("cpu"))
    revival.observe(torch.zeros(9_999, 3), n_steps_left=None)
    assert not revival.is_due(200, 1000)
    revival.observe(torch.zeros(1, 3))
    assert revival.is_due(200, 1000)
    assert not revival.is_due(201, 1000)
    assert not revival.is_due(50, 1000)
    assert not revival.is_due(700, 1000)


def test_the_last_minibatches_before_a_revival_are_kept_and_no_more() -> None:
    generator = torch.Generator().manual_seed(0)
    minibatches = [(torch.rand(40, 3, generator=generator) < 0.5).float() for _ in range(30)]
    revival = Revival(3, device=torch.device("cpu"))
    for place, bits in enumerate(minibatches):
        revival.observe(bits, n_steps_left=29 - place)
    kept = [pack(bits.bool()) for bits in minibatches[-KEPT_BATCHES:]]
    assert torch.equal(revival.state()["latest"], torch.stack(kept))
    for bits in minibatches[:3]:  # too few rows for a revival: the next one's window moves on
        revival.observe(bits, n_steps_left=0)
    kept = [*kept[3:], *(pack(bits.bool()) for bits in minibatches[:3])]
    assert torch.equal(revival.state()["latest"], torch.stack(kept))


# warnings


def warnings_of(hidden: np.ndarray, **parameters: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        BitCodec(n_bits=60, n_steps=40, batch_size=128, refine="none", **parameters).fit(hidden)
    return [str(w.message) for w in caught if w.category is TrainingWarning]


def test_a_fit_that_goes_well_warns_of_nothing(hidden: np.ndarray) -> None:
    assert not warnings_of(hidden[:2000])


def test_a_fit_that_goes_dense_says_so_and_what_to_do(hidden: np.ndarray) -> None:
    found = warnings_of(hidden[:2000], initial_activity=0.5)
    assert any("went dense. Lower initial_activity (now 0.5)" in text for text in found)


def test_a_fit_that_collapses_says_so_and_what_to_do(hidden: np.ndarray) -> None:
    found = warnings_of(hidden[:2000], entropy_weight=1000.0, revive=False)
    assert any("collapsed. Lower entropy_weight (now 1e+03)" in text for text in found)


def test_a_fit_that_oscillates_says_so_and_what_to_do(hidden: np.ndarray) -> None:
    codec = BitCodec(n_bits=60, n_steps=400, batch_size=2, refine="none", initial_activity=0.3)
    with pytest.warns(TrainingWarning, match="oscillated to its end.*Lower learning_rate"):
        codec.fit(hidden[:2000])
