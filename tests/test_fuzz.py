"""Every reader takes changed artefacts with a result or an error of its own: a bounded run.

The long runs are `python -m tests.fuzz NAME --inputs 200000`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitcodec.errors import FormatError
from tests.artefacts import ARTEFACTS
from tests.fuzz.mutations import mutate
from tests.fuzz.sealing import seal
from tests.fuzz.trial import HangError, Trial, put, take, time_limit

N_INPUTS = {"archive": 30, "report": 60}


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_reader_refuses_what_it_does_not_read(name: str, tmp_path: Path) -> None:
    artefact, path = ARTEFACTS[name], tmp_path / "artefact"
    artefact.write(path)
    artefact.read(path)  # numba loads compiled code by pickle, which a trial forbids
    valid, trial = take(path), Trial(path, artefact.read)
    assert trial.run(valid).kind == "read"

    @settings(
        max_examples=N_INPUTS.get(name, 120),
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(seed=st.integers(0, 2**32), sealed=st.booleans())
    def check(seed: int, sealed: bool) -> None:
        files = mutate(valid, random.Random(seed))
        outcome = trial.run(seal(name, files) if sealed else files)
        assert outcome.kind != "fault", outcome.what

    check()


def test_a_fault_of_a_reader_is_told(tmp_path: Path) -> None:
    def divide(path: Path) -> object:
        return 1 // len(path.read_bytes())

    outcome = Trial(tmp_path / "artefact", divide).run({"": b""})
    assert (outcome.kind, outcome.what.split(" at ")[0]) == ("fault", "ZeroDivisionError")


def test_a_file_opened_outside_the_artefact_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    trial = Trial(tmp_path / "artefact", lambda path: (path.parent / "secret").read_text())
    assert trial.run({"": b""}).what.startswith("opened a file outside")


def test_a_reader_that_does_not_end_is_stopped() -> None:
    with pytest.raises(HangError, match="more than 1 seconds"), time_limit(1):
        while True:
            pass


@pytest.mark.parametrize("change", [{"text": 5}, {"text": ["a"]}, {"id": 5}])
def test_a_document_that_is_no_text_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    """Found by the fuzzer: a number in the place of a text, under right checksums."""
    artefact, path = ARTEFACTS["harvest"], tmp_path / "artefact"
    artefact.write(path)
    files = take(path)
    first, *others = files["documents.jsonl"].splitlines(keepends=True)
    changed = json.dumps(json.loads(first) | change).encode().ljust(len(first) - 1) + b"\n"
    put(path, seal("harvest", files | {"documents.jsonl": b"".join([changed, *others])}))
    with pytest.raises(FormatError, match=r"line 1 of .*documents.jsonl is no document"):
        artefact.read(path)
