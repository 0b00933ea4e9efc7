"""The journal of a job: one run at a time writes it."""

from __future__ import annotations

import threading
from pathlib import Path

from bitcodec.errors import FileError
from bitcodec_ray.journal import Job, Journal, Shard


def test_of_two_runs_with_one_journal_one_is_told(tmp_path: Path) -> None:
    job = Job("digest", n_rows=9, first_row=0, shard_rows=4, fingerprint="f", refine="fast")
    told: list[BaseException] = []

    def run_too() -> None:
        try:
            with Journal(tmp_path / "journal", job):
                pass
        except FileError as error:
            told.append(error)

    with Journal(tmp_path / "journal", job) as first:
        second = threading.Thread(target=run_too)
        second.start()
        second.join()
        first.add(Shard(0, 4))
    assert "journal is being written by another process" in str(told[0])
    with Journal(tmp_path / "journal", job) as again:
        assert again.done == {0: Shard(0, 4)}
