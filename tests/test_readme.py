"""What the README shows runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bitcodec_cli.main import main
from bitcodec_transformers import LanguageModel

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(r"^bitcodec (\S+)", README, flags=re.MULTILINE)


def test_the_python_examples_run_one_after_another(
    hidden: np.ndarray,
    language_model: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del language_model  # converted beforehand, so that load_model finds it in the cache
    monkeypatch.chdir(tmp_path)
    np.save("hidden.npy", hidden[:2000])
    names: dict[str, object] = {}
    for block in BLOCKS:
        fewer_steps = block.replace("expansion=4)", "expansion=4, n_steps=5)")
        fewer_steps = fewer_steps.replace('preset("search")', 'preset("search", n_steps=100)')
        fewer_steps = fewer_steps.replace(
            "n_bits=codec.n_bits_)", "n_bits=codec.n_bits_, n_steps=2)"
        )
        fewer_steps = fewer_steps.replace("target_bits=120", "target_bits=120, n_steps=5")
        fewer_steps = fewer_steps.replace("n_bits=256)", "n_bits=256, n_steps=20)")
        exec(compile(fewer_steps, "README.md", "exec"), names)
    assert len(BLOCKS) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "codec",
        "codes.zarr",
        "fit.state",
        "hidden.npy",
        "index",
        "report.json",
        "sae",
        "states",
    ]
    assert names["found"].ids[:, 0].tolist() == [100, 101, 102, 103, 104]  # type: ignore[attr-defined]
    report = names["report"]  # of few tokens: a poor codec may even help
    assert 0.2 < report.outcomes["codec"].recovered < 1.2  # type: ignore[attr-defined]
    best = names["sentences"][names["ranked"].ids[0, 0]]  # type: ignore[attr-defined, index]
    assert "exception" in best


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_that_the_readme_names_exists(command: str) -> None:
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


def test_the_readme_shows_what_the_demo_prints() -> None:
    demo = README.split("<!-- demo -->")[1].split("<!-- /demo -->")[0]
    assert "recall@10" in demo
    assert "[dictionary]" in demo
