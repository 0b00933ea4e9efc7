"""Hostile files are refused with a reason, and take no more memory than a small file may."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import pytest

from bitcodec.errors import BitcodecError, FileError
from bitcodec_transformers.manifest import Counts
from bitcodec_transformers.shards import HarvestFolder
from tests.artefacts import ARTEFACTS, wanted_harvest
from tests.fuzz.trial import Trial, take
from tests.hostile.threats import THREATS

FILES = Path(__file__).parent / "hostile" / "files"
MOST_BYTES = 2**23
"""Allocated while a hostile file of some kilobytes is read; each would like gigabytes."""


@pytest.mark.parametrize("name", sorted(THREATS))
def test_a_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    threat, path = THREATS[name], tmp_path / "artefact"
    source = FILES / name / "artefact"
    shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    # Nothing is opened outside, or run; and what a first reading imports is not counted below.
    assert Trial(path, ARTEFACTS[threat.artefact].read).run(take(path)).kind == "refused"
    tracemalloc.start()
    try:
        with pytest.raises(BitcodecError, match=threat.refusal) as refusal:
            ARTEFACTS[threat.artefact].read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES
    assert len(str(refusal.value)) < 2000


def test_a_harvest_is_not_gone_on_with_through_a_link(tmp_path: Path) -> None:
    """What is appended to must lie in the folder: a link could lead to any file of its user."""
    precious = tmp_path / "precious"
    precious.write_text("kept")
    wanted = wanted_harvest()
    (tmp_path / "hidden").mkdir()
    wanted.save(tmp_path / "hidden")
    (tmp_path / "hidden" / "documents.jsonl").symlink_to(precious)
    with pytest.raises(FileError, match=r"cannot write .*documents\.jsonl"):
        HarvestFolder(tmp_path / "hidden", wanted).finish(
            counts=Counts(), documents=[], documents_sha256=""
        )
    assert precious.read_text() == "kept"
