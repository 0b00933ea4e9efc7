"""A few of the kills of `benchmarks.crashes`, on every run of the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("jobs", "moments"),
    [
        (["index save"], ["--every-step"]),
        (["fit", "encode", "archive append", "harvest"], ["--kills", "2"]),
    ],
    ids=["every call on files", "random moments"],
)
def test_a_killed_job_leaves_the_old_state_or_the_new_and_ends_well_when_done_again(
    harvest_folder: Path, jobs: list[str], moments: list[str]
) -> None:
    command = [sys.executable, "-m", "benchmarks.crashes", "--hidden", str(harvest_folder)]
    result = subprocess.run(
        [*command, "--no-results", *moments, "--jobs", *jobs],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert [line.split(" {")[0] for line in result.stdout.splitlines()] == jobs
    assert "'old':" in result.stdout
