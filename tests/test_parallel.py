"""Several processes: the gradient, and the codec, of one process on the whole minibatch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bitcodec import BitCodec
from bitcodec.errors import ConfigError
from bitcodec.parallel import joined_processes, n_processes, own_rows, own_share

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
config = CodecConfig(n_bits=64, batch_size=256, entropy_weight=2.0, covariance_columns=20)
with joined_processes():
    trainer = start_training(HiddenBatches(rows), config, device=torch.device("cpu"))
    model = trainer.model
    own = own_rows(model.standardise(torch.from_numpy(rows[:256])))
    columns = torch.Generator().manual_seed(0)
    terms = objective.measure(model, own, config, progress=0.9, generator=columns)
    loss = objective.total(terms, config, n_dims=576, entropy_weight=2.0, progress=0.9)
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


def test_two_processes_have_the_gradient_of_one_on_the_joined_minibatch(
    hidden: np.ndarray, tmp_path: Path
) -> None:
    script, rows = tmp_path / "gradients.py", tmp_path / "rows.npy"
    script.write_text(GRADIENTS)
    np.save(rows, hidden[:1024])
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for command, target in (([sys.executable], one), (TORCHRUN, two)):
        result = run([*command, str(script), str(rows), str(target)])
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
