"""Steps of training that are recorded once and replayed, by a recorder that runs on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bitcodec import BitCodec, training
from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig
from bitcodec.errors import ValueRangeError
from bitcodec.replay import WARM_UP, Replay
from bitcodec.steps import Seen
from bitcodec.training import Trainer, start_training

CPU = torch.device("cpu")
N_STEPS, BATCH = 30, 256
ASKING = ("_local_scalar_dense", "nonzero", "equal", "unique", "item")


class Recorder:
    """Records as CUDA does: recording does nothing, and results lie where they lay before."""

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self.n_runs, self.n_replays = 0, 0

    def run(self, work: Callable[[], Any]) -> Any:
        self.n_runs += 1
        return work()

    def record(self, work: Callable[[], Seen]) -> tuple[Seen, Callable[[], None]]:
        assert self.trainer is not None
        kept = [*self.trainer.model.parameters(), *self.trainer._step.state().values()]
        before, noise = [tensor.detach().clone() for tensor in kept], self.trainer._noise
        random = noise.get_state()
        with NothingAsked():  # type: ignore[no-untyped-call]
            result = work()
        noise.set_state(random)
        with torch.no_grad():
            for tensor, old in zip(kept, before, strict=True):
                tensor.copy_(old)

        def replay() -> None:
            self.n_replays += 1
            for place, value in zip(tensors(result), tensors(work()), strict=True):
                place.copy_(value)

        return result, replay


class NothingAsked(TorchDispatchMode):
    """Refuses operations for which a host waits for its device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = str(func).split(".")[1]
        assert name not in ASKING, f"a recorded step asks for a number: {func}"
        return func(*args, **(kwargs or {}))


def tensors(seen: Seen) -> list[torch.Tensor]:
    return [seen.standardised, seen.numbers, *vars(seen.terms).values()]


def start(rows: np.ndarray, **settings: Any) -> tuple[Trainer, HiddenBatches]:
    config = CodecConfig(n_bits=64, batch_size=BATCH, n_steps=N_STEPS, **settings)
    batches = HiddenBatches(rows)
    return start_training(batches, config, device=CPU, capture=True), batches


@pytest.fixture
def recorder(as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(training, "recorder_for", lambda _: found)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"covariance_columns": 20, "final_temperature": 0.1},
        {"covariance_columns": None, "gradient_clip": 0.5, "precision": "bfloat16"},
        {"surrogate": "gumbel", "covariance_weight": 0.0, "target_bits": 20.0},
        {"surrogate": "clipped", "side_bytes": 2, "entropy_weight": 0.1},
        {"objective": "published", "surrogate": "published", "revive": False},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_replayed_steps_train_the_same_model_bit_for_bit(
    settings: dict[str, Any], hidden: np.ndarray, recorder: Recorder
) -> None:
    rows = hidden[:1024]
    recorder.trainer, batches = start(rows, **settings)
    replayed = list(recorder.trainer.run(batches))
    assert (recorder.n_runs, recorder.n_replays) == (WARM_UP, N_STEPS - WARM_UP)
    plain = Trainer(start(rows, **settings)[0].model, recorder.trainer.config)
    assert [record.loss for record in plain.run(batches)] == [record.loss for record in replayed]
    for own, other in zip(
        plain.model.parameters(), recorder.trainer.model.parameters(), strict=True
    ):
        assert torch.equal(own, other)


def test_revived_bits_start_anew_in_a_recorded_step_too(
    hidden: np.ndarray, recorder: Recorder
) -> None:
    config = CodecConfig(n_bits=64, n_steps=60, batch_size=512)
    batches = HiddenBatches(hidden[:2048])
    trainers = [start_training(batches, config, device=CPU, capture=x) for x in (True, False)]
    recorder.trainer = trainers[0]
    revived = []
    for trainer in trainers:
        trainer.model.encoder_bias.data[:3] = -1e6  # dead
        revived.append([record.n_revived for record in trainer.run(batches)])
    assert revived[0] == revived[1]
    assert sum(revived[0]) >= 3
    assert torch.equal(trainers[0].model.decoder_weight, trainers[1].model.decoder_weight)


def test_what_a_recorded_step_reads_stays_where_it_is(
    hidden: np.ndarray, recorder: Recorder
) -> None:
    recorder.trainer, _ = start(hidden[:1024], covariance_columns=20)
    step, rows = recorder.trainer._step, torch.from_numpy(hidden)
    places = []
    for number in range(6):
        recorder.trainer.step(rows[number * BATCH : (number + 1) * BATCH])
        places.append({name: tensor.data_ptr() for name, tensor in step._inputs.items()})
    assert all(place == places[0] for place in places)
    assert set(places[0]) == {"hidden", "settings", "columns"}


def test_a_minibatch_of_another_size_is_recorded_anew(
    hidden: np.ndarray, recorder: Recorder
) -> None:
    recorder.trainer, _ = start(hidden[:1024])
    rows = torch.from_numpy(hidden)
    for size in (256, 256, 256, 256, 128, 128, 128, 128):
        recorder.trainer.step(rows[:size])
    assert (recorder.n_runs, recorder.n_replays) == (2 * WARM_UP, 2)


def test_a_training_that_is_resumed_does_not_replay_what_was_recorded_before(
    hidden: np.ndarray, recorder: Recorder
) -> None:
    rows = torch.from_numpy(hidden[:BATCH])
    recorder.trainer, batches = start(hidden[:1024])
    recorder.trainer.step(rows)
    state = recorder.trainer.state(batches)
    after = [recorder.trainer.step(rows).loss for _ in range(5)]
    recorder.trainer.resume(state, batches)
    assert [recorder.trainer.step(rows).loss for _ in range(5)] == after


def test_work_that_cannot_be_recorded_runs_as_it_stands_and_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Recorder):
        def record(self, work: Callable[[], Any]) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing")

    counts: list[int] = []
    replay = Replay(lambda: counts.append(1), Failing())
    with caplog.at_level(logging.WARNING):
        for _ in range(WARM_UP + 5):
            replay()
    assert len(counts) == WARM_UP + 5
    assert len(caplog.records) == 1
    assert "not recorded: operation not permitted" in caplog.text


def test_a_fit_on_the_cpu_says_that_it_recorded_nothing(
    hidden: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"n_bits": 32, "n_steps": 10, "device": "cpu", "refine_rounds": 0}
    with caplog.at_level(logging.WARNING):
        captured = BitCodec(**settings).fit(hidden[:1024], capture=True)
    assert "this is on cpu by 1 processes" in caplog.text
    assert captured.fingerprint_ == BitCodec(**settings).fit(hidden[:1024]).fingerprint_


def test_a_loss_that_is_not_finite_leaves_weights_and_moments_as_they_were(
    hidden: np.ndarray, recorder: Recorder
) -> None:
    recorder.trainer, _ = start(hidden[:1024])
    rows = torch.from_numpy(hidden[:BATCH])
    for _ in range(5):
        recorder.trainer.step(rows)
    kept = [*recorder.trainer.model.parameters(), *recorder.trainer._step.state().values()]
    before = [tensor.detach().clone() for tensor in kept]
    with pytest.raises(ValueRangeError, match="after 5 steps: lower learning_rate"):
        recorder.trainer.step(rows.index_fill(0, torch.tensor(7), torch.nan))
    for tensor, old in zip(kept, before, strict=True):
        assert torch.equal(tensor, old)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_fit_on_a_gpu_ends_where_a_plain_one_does(hidden: np.ndarray) -> None:
    settings: dict[str, Any] = {"n_bits": 64, "n_steps": 50, "device": "cuda", "refine_rounds": 0}
    errors = [
        BitCodec(**settings).fit(hidden[:4096], capture=capture).evaluate(hidden[:4096]).fvu
        for capture in (False, True)
    ]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)
