"""Checkpoints: a resumed training ends as one that never stopped, whatever stopped it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bitcodec import BitCodec, TrainingRecord
from bitcodec.checkpoints import Checkpoint
from bitcodec.config import CodecConfig
from bitcodec.errors import ConfigError, FileError, FormatError, MismatchError

SMALL = {"n_bits": 96, "n_steps": 40, "batch_size": 256, "refine": "none"}
STEERED = {"target_bits": 20.0, "gradient_clip": 1.0, "final_temperature": 0.3}


class StopError(Exception):
    """Stands for whatever ends a process."""


def fit(hidden: np.ndarray, **parameters: object) -> BitCodec:
    return BitCodec().set_params(**{**SMALL, **parameters}).fit(hidden)


def fit_until(step: int, hidden: np.ndarray, checkpoint: Path, **parameters: object) -> None:
    def stop(record: TrainingRecord) -> None:
        if record.step == step:
            raise StopError

    codec = BitCodec().set_params(**{**SMALL, **parameters})
    with pytest.raises(StopError):
        codec.fit(hidden, on_record=stop, checkpoint=checkpoint, checkpoint_every=5)


@pytest.mark.filterwarnings("ignore::bitcodec.errors.TrainingWarning")
@pytest.mark.parametrize(
    "parameters",
    [{}, STEERED, {"surrogate": "gumbel"}, {"patience": 50}, {"covariance_columns": 7}],
    ids=str,
)
def test_a_resumed_training_ends_bit_for_bit_as_one_that_never_stopped(
    hidden: np.ndarray, tmp_path: Path, parameters: dict[str, object]
) -> None:
    checkpoint, whole = tmp_path / "run", fit(hidden, **parameters)
    fit_until(13, hidden, checkpoint, **parameters)
    fit_until(29, hidden, checkpoint, **parameters)
    codec = BitCodec().set_params(**{**SMALL, **parameters})
    codec.fit(hidden, checkpoint=checkpoint)
    assert codec.fingerprint_ == whole.fingerprint_
    assert [record.loss for record in codec.history_] == [record.loss for record in whole.history_]


def test_bits_are_revived_alike_after_a_stop(
    hidden: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitcodec.revival.MIN_ROWS", 1)
    parameters = {"initial_activity": 0.001, "entropy_weight": 5.0}
    whole = fit(hidden, **parameters)
    assert sum(record.n_revived for record in whole.history_) > 0
    fit_until(17, hidden, tmp_path / "run", **parameters)
    codec = BitCodec().set_params(**{**SMALL, **parameters})
    assert codec.fit(hidden, checkpoint=tmp_path / "run").fingerprint_ == whole.fingerprint_


def test_a_stop_loses_at_most_the_steps_since_the_last_checkpoint(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    fit_until(13, hidden, tmp_path / "run")
    told: list[TrainingRecord] = []
    BitCodec().set_params(**SMALL).fit(hidden, checkpoint=tmp_path / "run", on_record=told.append)
    assert [record.step for record in told] == list(range(11, 41))


def test_a_training_that_was_over_is_not_begun_again(hidden: np.ndarray, tmp_path: Path) -> None:
    parameters = {**SMALL, "n_steps": 6}
    first = BitCodec().set_params(**parameters).fit(hidden, checkpoint=tmp_path / "run")
    told: list[TrainingRecord] = []
    second = BitCodec().set_params(**parameters)
    second.fit(hidden, checkpoint=tmp_path / "run", on_record=told.append)
    assert not told
    assert second.fingerprint_ == first.fingerprint_


CHILD = """
import signal
import sys
import numpy as np
from bitcodec import BitCodec

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored

def show(record):
    print(record.step, flush=True)

codec = BitCodec(n_bits=96, n_steps=40, batch_size=256, refine="none")
codec.fit(sys.argv[1], checkpoint=sys.argv[2], checkpoint_every=int(sys.argv[3]), on_record=show)
print(codec.fingerprint_)
"""


def child(data: Path, checkpoint: Path, *, every: int = 100) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(data), str(checkpoint), str(every)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(
    ("number", "status", "every"),
    [(signal.SIGKILL, -9, 3), (signal.SIGTERM, -15, 100), (signal.SIGINT, 1, 100)],
)
def test_a_killed_process_is_taken_up_by_the_next(
    hidden: np.ndarray, tmp_path: Path, number: signal.Signals, status: int, every: int
) -> None:
    data, checkpoint = tmp_path / "hidden.npy", tmp_path / "run"
    np.save(data, hidden)
    killed = child(data, checkpoint, every=every)
    assert killed.stdout is not None
    while int(killed.stdout.readline()) < 8:
        time.sleep(0)
    killed.send_signal(number)
    assert killed.wait() in (status, -number)
    last = child(data, checkpoint)
    steps = last.communicate()[0].split()
    assert int(steps[0]) > 5
    assert steps[-1] == fit(hidden).fingerprint_


def test_a_signal_that_someone_handles_and_lives_through_does_not_end_training(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        codec = BitCodec().set_params(**SMALL)
        codec.fit(
            hidden,
            checkpoint=tmp_path / "run",
            on_record=lambda record: (
                signal.raise_signal(signal.SIGTERM) if record.step == 5 else None
            ),
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert [record.step for record in codec.history_] == list(range(1, 41))
    assert codec.fingerprint_ == fit(hidden).fingerprint_


def test_another_configuration_is_told_which_parameter_differs_and_keeps_the_checkpoint(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    fit_until(7, hidden, tmp_path / "run")
    before = (tmp_path / "run").read_bytes()
    codec = BitCodec().set_params(**{**SMALL, "seed": 1})
    with pytest.raises(MismatchError, match="of a training with seed=0, and this one has 1"):
        codec.fit(hidden, checkpoint=tmp_path / "run")
    assert (tmp_path / "run").read_bytes() == before


def test_other_data_are_refused(hidden: np.ndarray, tmp_path: Path) -> None:
    fit_until(7, hidden, tmp_path / "run")
    codec = BitCodec().set_params(**SMALL)
    with pytest.raises(MismatchError, match=r"hidden states \(4096, 576\), got \(4000, 576\)"):
        codec.fit(hidden[:4000], checkpoint=tmp_path / "run")


def test_a_damaged_checkpoint_is_refused_by_its_name(hidden: np.ndarray, tmp_path: Path) -> None:
    fit_until(7, hidden, tmp_path / "run")
    content = (tmp_path / "run").read_bytes()
    (tmp_path / "run").write_bytes(content[: len(content) // 2])
    with pytest.raises(FormatError, match="run is not a checkpoint"):
        BitCodec().set_params(**SMALL).fit(hidden, checkpoint=tmp_path / "run")


def test_a_checkpoint_with_a_parameter_of_another_version_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = CodecConfig(n_bits=8), Checkpoint(tmp_path / "run", every=1)
    with monkeypatch.context() as patch:
        patch.setattr(CodecConfig, "to_dict", lambda self: {"n_bits": 8, "of_tomorrow": 1})
        checkpoint.save({"x": torch.zeros(1)}, config)
    with pytest.raises(FormatError, match=r"run has bad parameters: .*of_tomorrow"):
        checkpoint.load(config)


def test_a_checkpoint_that_could_not_be_written_is_refused_before_training(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match="parent folder does not exist"):
        BitCodec().set_params(**SMALL).fit(hidden, checkpoint=tmp_path / "no" / "run")


def test_checkpoints_at_every_zeroth_step_are_refused(hidden: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkpoint_every must be at least 1, got 0"):
        BitCodec().fit(hidden, checkpoint=tmp_path / "run", checkpoint_every=0)
