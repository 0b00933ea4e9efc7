"""Jobs killed with SIGKILL: what the next start finds, and what it makes of it.

Each job runs in a process of its own and is killed at a random moment; or, with --every-step, at
each of its calls that open, rename or remove a file, one after the other. Then must hold:

- what a reader finds is the old state or the new one;
- the same job again succeeds, and its files are, to the byte, those of a run that was never
  stopped, with none beside them.

    python -m benchmarks.crashes --hidden HARVEST --kills 40
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.crash_jobs import JOBS, Job, Material, files_of
from benchmarks.results_file import merge_results
from bitcodec import BitCodec
from bitcodec.batches import HiddenBatches
from bitcodec_transformers import load_model

N_ROWS = 1500
WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
"""Audit events at which a state of the file system begins or ends."""
UNTOUCHED = "ended before it was killed"


def main() -> None:
    """Kill, look, repeat; figures go to benchmarks/results/trust.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=Path, required=True, help="hidden states")
    parser.add_argument("--jobs", nargs="+", default=[job.name for job in JOBS])
    parser.add_argument("--kills", type=int, default=40, help="random moments of each job")
    parser.add_argument("--every-step", action="store_true", help="at every call on files instead")
    parser.add_argument("--no-results", action="store_true", help="only print")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # forked processes have no threads but their own
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    jobs = [job for job in JOBS if job.name in arguments.jobs]
    material = make_material(arguments.hidden, with_model="harvest" in arguments.jobs)
    for job in jobs:
        figures = Trial(job, material).kill_all(None if arguments.every_step else arguments.kills)
        print(job.name, figures, flush=True)
        if not arguments.no_results:
            kind = "at_every_file_call" if arguments.every_step else "at_random_moments"
            merge_results("trust", ["crashes", kind, job.name], figures)


def make_material(folder: Path, *, with_model: bool) -> Material:
    """Read hidden states and fit two small codecs on them."""
    rows = next(iter(HiddenBatches(folder).batches(N_ROWS))).numpy()
    codecs = [
        BitCodec(n_bits=40, n_steps=5, batch_size=128, refine="none", seed=seed, device="cpu")
        for seed in (1, 2)
    ]
    first, second = (codec.fit(rows) for codec in codecs)
    return Material(rows, first, second, load_model("smollm2-135m") if with_model else None)


@dataclass(frozen=True)
class Moment:
    """When to kill: after so many seconds, or at so many calls on files."""

    seconds: float | None = None
    n_calls: int | None = None


class Trial:
    """One job, its two states and its files after a run that nothing stopped.

    Args:
        job: what is killed.
        material: what it works on.
    """

    def __init__(self, job: Job, material: Material) -> None:
        self.job, self.material = job, material
        self.begin = Path(tempfile.mkdtemp(prefix="bitcodec-crash-"))
        job.prepare(material, self.begin)
        self.old = self._state(self.begin)
        folder = self._copy()
        started = time.monotonic()
        n_calls = self._run(folder, Moment())
        assert n_calls is not None, f"{job.name} did not end"
        self.n_calls = n_calls
        self.seconds = time.monotonic() - started
        self.new, self.files = self._state(folder), files_of(folder)
        shutil.rmtree(folder)
        assert self.new != self.old, f"{job.name} changes nothing"

    def kill_all(self, n_kills: int | None) -> dict[str, Any]:
        """Kill at random moments, or at every call where their number is None; count."""
        rng, found = random.Random(0), Counter[str]()
        if n_kills is None:
            for number in range(1, self.n_calls + 1):
                found[self.kill_once(Moment(n_calls=number))] += 1
        while n_kills is not None and found["old"] + found["new"] < n_kills:
            begun = time.monotonic()
            found[end := self.kill_once(Moment(seconds=rng.uniform(0, self.seconds)))] += 1
            if end == UNTOUCHED:  # the machine has become faster: both of its runs were whole
                self.seconds = min(self.seconds, (time.monotonic() - begun) / 2)
        shutil.rmtree(self.begin)
        return {
            "kills": found["old"] + found["new"],
            "found": dict(found),
            "seconds_of_a_whole_run": self.seconds,
        }

    def kill_once(self, moment: Moment) -> str:
        """Kill, look, run again, compare; say what was found.

        Raises:
            AssertionError: neither state was found, or the second run ended otherwise.
        """
        folder = self._copy()
        ended = self._run(folder, moment)
        state = self._state(folder)
        assert state in (self.old, self.new), f"{self.job.name}, {moment}: neither old nor new"
        self._run(folder, Moment())
        assert self._state(folder) == self.new, f"{self.job.name}, {moment}: another end"
        files = files_of(folder)
        differ = {
            name
            for name in files.keys() | self.files.keys()
            if files.get(name) != self.files.get(name)
        }
        assert not differ, f"{self.job.name}, {moment}: {sorted(differ)} differ"
        shutil.rmtree(folder)
        if ended is not None:
            return UNTOUCHED
        return "old" if state == self.old else "new"

    def _state(self, folder: Path) -> str:
        return self.job.state(self.material, folder)

    def _copy(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="bitcodec-crash-"))
        shutil.copytree(self.begin, folder, dirs_exist_ok=True)
        return folder

    def _run(self, folder: Path, moment: Moment) -> int | None:
        """Run the job in a process; return its calls on files, or None if it was killed.

        Raises:
            AssertionError: it failed by itself.
        """
        read, write = os.pipe()
        process = os.fork()
        if process == 0:
            _work(lambda: self.job.run(self.material, folder), folder, moment, write)
        os.close(write)
        with os.fdopen(read) as told:
            assert told.readline() == "begun\n"
            if moment.seconds is not None:
                time.sleep(moment.seconds)
                os.kill(process, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            rest = told.read()
        if status == -signal.SIGKILL and moment != Moment():
            return None
        assert status == 0, f"{self.job.name} failed after {moment}: {rest}"
        return int(rest)


def _work(run: Callable[[], None], folder: Path, moment: Moment, pipe: int) -> None:
    """Do the job in a forked process, counting calls on files, and end the process."""
    n_calls = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal n_calls
        if event in WATCHED and str(arguments[0]).startswith(str(folder)):
            n_calls += 1
            if n_calls == moment.n_calls:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        os.write(pipe, b"begun\n")
        sys.addaudithook(count)
        run()
        os.write(pipe, str(n_calls).encode())
        os._exit(0)
    except BaseException as error:
        os.write(pipe, repr(error).encode())
        os._exit(1)


if __name__ == "__main__":
    main()
