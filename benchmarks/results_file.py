"""Where a benchmark's figures go: JSON with the machine, the versions and the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from bitcodec.files import write_json
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
)


def save_results(name: str, results: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json and return its path."""
    path = RESULTS / f"{name}.json"
    content = {
        "machine": describe_machine(),
        "versions": library_versions(PACKAGES),
        "commit": commit(),
    }
    write_json(path, content | {"results": results}, overwrite=True)
    return path


def describe_machine() -> dict[str, Any]:
    """Return processor, cores and system."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    return {"processor": model, "cores": os.cpu_count(), "system": platform.system()}


def commit() -> str:
    """Return the commit of the checkout, with a plus sign where files differ from it."""
    root = Path(__file__).parent
    head = ["git", "rev-parse", "--short", "HEAD"]
    changed = ["git", "status", "--porcelain", "--untracked-files=no"]
    revision = subprocess.run(head, cwd=root, capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run(changed, cwd=root, capture_output=True, text=True).stdout.strip()
    return (revision or "unknown") + ("+" if dirty else "")
