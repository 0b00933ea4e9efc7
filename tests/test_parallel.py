"""Several processes: the gradient, and the codec, of one process on the whole minibatch."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bitcodec import BitCodec, TrainingRecord
from bitcodec.errors import ConfigError
from bitcodec.parallel import joined_processes, n_processes, own_rows, own_share
from bitcodec.revival import Revival

GRADIENTS = """
import sys
import numpy as np
import torch
from safetensors.torch import save_file
from bitcodec import objective
from bitcodec.batches import HiddenBatches
from bitcodec.config import CodecConfig
from bitcodec.parallel import average_gradients, joined_processes, own_rows, rank
from bitcodec.training import start_training

rows = np.load(sys.argv[1])
n_rows, n_columns = int(sys.argv[3]), int(sys.argv[4]) or None
config = CodecConfig(
    n_bits=64, batch_size=n_rows, entropy_weight=2.0, covariance_columns=n_columns
)
with joined_processes():
    trainer = start_training(HiddenBatches(rows), config, device=torch.device("cpu"))
    model = trainer.model
    own = own_rows(model.standardise(torch.from_numpy(rows[:n_rows])))
    columns = objective.draw_columns(config, 64, torch.Generator().manual_seed(0))
    terms = objective.measure(model, own, config, temperature=0.5, columns=columns)
    weights = objective.weights_at(
        config, n_bits=64, n_dims=576, entropy_weight=2.0, progress=0.9
    )
    loss = objective.total(terms, weights)
    loss.backward()
    average_gradients(model.parameters())
    if rank() == 0:
        found = {name: weight.grad for name, weight in model.named_parameters()}
        save_file(found | {"loss": loss.detach()[None]}, sys.argv[2])
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("n_rows", "n_columns"), [(256, 20), (74, 0)])
def test_two_processes_have_the_gradient_of_one_on_the_joined_minibatch(
    n_rows: int, n_columns: int, hidden: np.ndarray, tmp_path: Path
) -> None:
    script, rows = tmp_path / "gradients.py", tmp_path / "rows.npy"
    script.write_text(GRADIENTS)
    np.save(rows, hidden[:1024])
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for command, target in (([sys.executable], one), (TORCHRUN, two)):
        what = [str(value) for value in (script, rows, target, n_rows, n_columns)]
        result = run([*command, *what])
        assert result.returncode == 0, result.stderr
    alone, together = load_file(one), load_file(two)
    assert float(alone["loss"]) == pytest.approx(float(together["loss"]), rel=1e-6)
    for name, gradient in alone.items():
        difference = (gradient - together[name]).norm()
        assert difference <= 1e-5 * gradient.norm(), name


def test_a_codec_fitted_by_two_processes_is_that_of_one(hidden: np.ndarray, tmp_path: Path) -> None:
    rows = hidden[:3520]  # an odd share of batches for each process
    np.save(tmp_path / "rows.npy", rows)
    options = ["--n-bits", "64", "--n-steps", "12", "--batch-size", "256", "--seed", "3"]
    fit = ["-m", "bitcodec_cli", "fit", str(tmp_path / "rows.npy"), *options, "-o"]
    for command, name in (([sys.executable], "one"), (TORCHRUN, "two")):
        result = run([*command, *fit, str(tmp_path / name)])
        assert result.returncode == 0, result.stderr
    alone, together = (BitCodec.load(tmp_path / name) for name in ("one", "two"))
    codes = [codec.encode_bits(rows, refine="none") for codec in (alone, together)]
    assert (codes[0] != codes[1]).mean() < 1e-4
    assert alone.evaluate(rows).fvu == pytest.approx(together.evaluate(rows).fvu, rel=1e-3)
    assert alone.statistics_.n_rows == together.statistics_.n_rows == len(rows)


def test_one_process_alone_has_all_rows_and_all_batches() -> None:
    rows = torch.arange(6.0)[:, None]
    with joined_processes():
        assert n_processes() == 1
        assert own_rows(rows) is rows
        assert list(own_share([rows])) == [rows]


def test_rows_that_do_not_divide_among_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bitcodec.parallel.n_processes", lambda: 2)
    with pytest.raises(ConfigError, match="batch_size that is a multiple of 2"):
        own_rows(torch.zeros(5, 3))


# One run of two processes for all that follows: starting them takes longer than their fits.
TOGETHER = """
import json
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import distributed

import bitcodec.revival
from bitcodec import BitCodec
from bitcodec.errors import FileError
from bitcodec.parallel import joined_processes, rank
from tests.test_parallel import NOISY, REVIVED, fit, fit_until

COLLECTIVES = (
    "all_reduce broadcast reduce gather all_gather all_gather_into_tensor scatter send isend "
    "all_to_all reduce_scatter gather_object all_gather_object broadcast_object_list"
)
seen = set()

def watch(name):
    inner = getattr(distributed, name)

    def call(tensor, *rest, **named):
        told = rest[0] if name == "all_gather" else tensor
        seen.add((name, told.shape))
        return inner(tensor, *rest, **named)

    setattr(distributed, name, call)

folder = Path(sys.argv[1])
rows = np.load(folder / "rows.npy")
warnings.simplefilter("ignore")
bitcodec.revival.MIN_ROWS = 1
for name in COLLECTIVES.split():
    watch(name)
with joined_processes():
    heard = []
    for n_rows in (2048, 4096):
        seen.clear()
        fit(rows[:n_rows], checkpoint=folder / f"{n_rows}.state", checkpoint_every=5, **REVIVED)
        heard.append(sorted(seen))
    whole = fit(rows, **REVIVED)
    fit_until(8, rows, folder / "revived.state", **REVIVED)
    again = fit(rows, checkpoint=folder / "revived.state", **REVIVED)
    fit_until(15, rows, folder / "two.state", **NOISY)
    try:  # as on machines that share no files
        fit(rows, checkpoint=folder / ("two.state", "none.state")[rank()], **NOISY)
    except FileError as error:
        (folder / f"refused-{rank()}.txt").write_text(str(error))
    resumed = fit(rows, checkpoint=folder / "one.state", **NOISY)
    steps = []

    def note(record):
        steps.append(record.step)
        if record.step == 5 and rank() == 1:
            signal.raise_signal(signal.SIGTERM)

    if rank() == 1:
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    fit(rows[:2048], checkpoint=folder / "signalled.state", on_record=note)
    (folder / f"steps-{rank()}.json").write_text(json.dumps(steps))
    if rank() == 0:
        for name, codec in {"whole": whole, "again": again, "resumed": resumed}.items():
            codec.save(folder / name)
    (folder / f"heard-{rank()}.json").write_text(json.dumps(heard))
"""
SMALL: dict[str, Any] = {"n_bits": 96, "n_steps": 30, "batch_size": 256, "refine": "none"}
REVIVED: dict[str, Any] = {"initial_activity": 0.002, "entropy_weight": 3.0}
NOISY: dict[str, Any] = {"surrogate": "gumbel"}


class StopError(Exception):
    """Stands for whatever ends a process."""


def fit(
    rows: np.ndarray,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    on_record: Callable[[TrainingRecord], None] | None = None,
    **parameters: Any,
) -> BitCodec:
    codec = BitCodec(**SMALL, **parameters)
    return codec.fit(
        rows, checkpoint=checkpoint, checkpoint_every=checkpoint_every, on_record=on_record
    )


def fit_until(step: int, rows: np.ndarray, checkpoint: Path, **parameters: Any) -> None:
    def stop(record: TrainingRecord) -> None:
        if record.step == step:
            raise StopError

    with contextlib.suppress(StopError):
        fit(rows, checkpoint=checkpoint, checkpoint_every=step, on_record=stop, **parameters)


@pytest.fixture(scope="module")
def together(hidden: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes left what `TOGETHER` has them do."""
    folder = tmp_path_factory.mktemp("together")
    np.save(folder / "rows.npy", hidden)
    (folder / "together.py").write_text(TOGETHER)
    fit_until(15, hidden, folder / "one.state", **NOISY)
    result = run([*TORCHRUN, str(folder / "together.py"), str(folder)])
    assert result.returncode == 0, result.stderr
    return folder


def test_processes_tell_each_other_sums_and_weights_whatever_the_number_of_rows(
    hidden: np.ndarray, together: Path
) -> None:
    n_dims, n_bits = hidden.shape[1], SMALL["n_bits"]
    ranks = [json.loads((together / f"heard-{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    of_few_rows, of_many = ranks[0]
    assert of_few_rows == of_many
    assert {name for name, _ in of_many} == {"all_reduce", "all_gather", "broadcast"}
    gathered = {math.prod(shape) for name, shape in of_many if name == "all_gather"}
    n_words = -(-SMALL["batch_size"] // 2 // 64)
    assert n_words * n_bits in gathered  # a minibatch's bits, which its pairs are counted in
    # The largest are the gradient, and the sums over rows of products of bits and dimensions.
    n_weights = 2 * n_bits * n_dims + n_bits + n_dims
    n_products = (n_bits + n_dims + 1) * (n_bits + 1)
    sizes = [math.prod(shape) for _, shape in of_many]
    assert n_weights in sizes
    assert max(sizes) <= max(n_weights, n_products)


def test_bits_are_revived_by_several_processes_and_alike_after_a_stop(together: Path) -> None:
    # Step 8 lies between two revivals: counts of bits and of pairs of them are in the state.
    whole, again = (BitCodec.load(together / name) for name in ("whole", "again"))
    assert whole.fingerprint_ == again.fingerprint_
    state = load_file(together / "4096.state")
    n_revived = state["records"][:, -2]
    assert int(n_revived.sum()) > 0


def test_a_fit_of_one_process_is_gone_on_with_by_two(hidden: np.ndarray, together: Path) -> None:
    refuse_difference(fit(hidden, **NOISY), BitCodec.load(together / "resumed"), hidden)


def test_a_fit_of_two_processes_is_gone_on_with_by_one(hidden: np.ndarray, together: Path) -> None:
    resumed = fit(hidden, checkpoint=together / "two.state", **NOISY)
    assert [record.step for record in resumed.history_] == list(range(1, 31))
    refuse_difference(fit(hidden, **NOISY), resumed, hidden)


def test_a_signal_to_one_process_does_not_end_the_training_of_the_other(together: Path) -> None:
    for rank in (0, 1):
        steps = json.loads((together / f"steps-{rank}.json").read_text())
        assert steps == list(range(1, 31))


def test_processes_that_see_different_checkpoints_say_so(together: Path) -> None:
    for rank, step in ((0, 15), (1, 0)):
        told = (together / f"refused-{rank}.txt").read_text()
        assert f"processes go on from different steps, this one from {step}: keep" in told


def refuse_difference(whole: BitCodec, resumed: BitCodec, hidden: np.ndarray) -> None:
    """Fail unless codecs differ by rounding alone: the noise of a row is the row's own."""
    codes = [codec.encode_bits(hidden, refine="none") for codec in (whole, resumed)]
    assert (codes[0] != codes[1]).mean() < 1e-4
    assert whole.evaluate(hidden).fvu == pytest.approx(resumed.evaluate(hidden).fvu, rel=1e-3)


@pytest.mark.parametrize("n_processes", [1, 2, 4])
def test_counts_for_a_revival_go_on_with_any_number_of_processes(
    n_processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = (torch.rand(64, 5, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    before = Revival(5, device=torch.device("cpu"))
    for minibatch in bits.split(16):
        before.observe(minibatch)
    state = before.state()
    found = []
    for number in range(n_processes):
        with monkeypatch.context() as patch:
            for module in ("revival", "parallel"):
                patch.setattr(f"bitcodec.{module}.rank", lambda number=number: number)
                patch.setattr(f"bitcodec.{module}.n_processes", lambda: n_processes)
            part = Revival(5, device=torch.device("cpu"))
            part.take(state)
        found.append(part.state())
        assert part.n_rows == 64
    assert torch.equal(torch.stack([part["counts"] for part in found]).sum(dim=0), state["counts"])
    # Each process has its rows of every minibatch.
    assert {part["latest"].shape for part in found} == {(4, 16 // n_processes, 1)}
    rows = torch.cat([part["latest"] for part in found], dim=1)
    assert torch.equal(rows.sort(dim=1).values, state["latest"].sort(dim=1).values)


def test_minibatches_of_another_width_are_no_state_of_a_revival() -> None:
    revival = Revival(5, device=torch.device("cpu"))
    revival.observe(torch.ones(64, 5))
    state = revival.state()
    with pytest.raises(ValueError, match=r"\(k, b, 1\), got \(5,\) and \(1, 64, 2\)"):
        revival.take({**state, "latest": state["latest"].repeat(1, 1, 2)})
    with pytest.raises(ValueError, match=r"counts \(5,\) .* got \(1,\) and"):
        revival.take({**state, "counts": state["counts"][:1]})
