"""The wheel and the editable install carry the packages they should, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "bitcodec",
    "bitcodec_cli",
    "bitcodec_faiss",
    "bitcodec_html",
    "bitcodec_naming",
    "bitcodec_pgvector",
    "bitcodec_ray",
    "bitcodec_sae",
    "bitcodec_transformers",
    "bitcodec_zarr",
}
TRY = """
import importlib.util, pathlib
import bitcodec, bitcodec_cli, bitcodec_faiss, bitcodec_transformers, bitcodec_zarr
import bitcodec_html.page, bitcodec_pgvector, bitcodec_ray.protocol, bitcodec_sae.weights
import numpy as np
for name in ("cli", "integrations"):
    assert importlib.util.find_spec(name) is None, name
hidden = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
codec = bitcodec.BitCodec(n_bits=12, n_steps=3, batch_size=64).fit(hidden)
assert codec.encode(hidden).shape == (600, 2)
print(pathlib.Path(bitcodec.__file__).parent)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # Built from a copy: setuptools leaves a build folder and metadata beside what it builds.
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    for name in files or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py")]:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "-w", str(folder), str(source)], check=True)
    return next(folder.glob("bitcodec-*.whl"))


def test_the_wheel_holds_the_packages_and_their_type_markers(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    roots = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert roots == PACKAGES
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assets = (ROOT / "integrations" / "bitcodec_html" / "assets").iterdir()
    assert {f"bitcodec_html/assets/{file.name}" for file in assets} <= set(names)


def test_the_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True)
    # -P keeps the working folder off the path; what is found comes from the wheel.
    done = subprocess.run(
        [sys.executable, "-P", "-c", TRY],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(site / "bitcodec")


def test_an_editable_install_adds_no_other_names(tmp_path: Path) -> None:
    script = TRY.split("import numpy")[0] + TRY[TRY.index("for name") : TRY.index("hidden =")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    if "No module named 'bitcodec'" in done.stderr:
        pytest.skip("bitcodec is not installed here: the tests run from the checkout")
    assert done.returncode == 0, done.stderr


def test_the_installed_command_answers(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True)
    done = subprocess.run(
        [sys.executable, str(site / "bin" / "bitcodec"), "--version"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("bitcodec, version "), done.stderr
