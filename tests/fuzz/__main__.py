"""Fuzz a reader: changed artefacts by the hundred thousand, random or guided by coverage.

    python -m tests.fuzz codec --inputs 200000
    python -m tests.fuzz codec --inputs 200000 --guided    # needs `pip install atheris`

Every fault is told once, and its first input kept. A crash of the process leaves its input where
the folder says: the last one is always on the disk.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.mutations import Files, mutate

LARGEST = 2**20
"""Bytes of the largest artefact that is tried."""
PACKAGES = [
    "bitcodec",
    *(f"bitcodec_{name}" for name in ("faiss", "naming", "transformers", "zarr")),
]
"""Whose branches guide a run."""
KERNELS = [f"bitcodec.{name}_kernels" for name in ("scoring", "refine", "context", "coactivation")]
"""But for those that numba compiles, which must see them as they are."""


def main() -> None:
    """Parse, run, and tell what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="artefact, a key of tests.artefacts.ARTEFACTS")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fuzz")
    arguments = parser.parse_args()
    if arguments.guided:
        import atheris

        with atheris.instrument_imports(
            include=PACKAGES, exclude=KERNELS, enable_loader_override=False
        ):
            session = _Session(arguments.name, arguments.folder, arguments.seed)
        session.run_guided(arguments.inputs)
    else:
        session = _Session(arguments.name, arguments.folder, arguments.seed)
        session.run(arguments.inputs)


class _Session:
    def __init__(self, name: str, folder: Path, seed: int) -> None:
        from tests.artefacts import ARTEFACTS
        from tests.fuzz.sealing import seal
        from tests.fuzz.trial import Trial, limit_memory, put, take

        artefact = ARTEFACTS[name]
        self.name, self._seal, self._put = name, seal, put
        self._folder = folder / f"{name}-{seed}"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "now"
        put(path, {})
        if not path.exists():
            artefact.write(path)
            (self._folder / "seed").mkdir(exist_ok=True)
        self.valid = take(path)
        self._generator = random.Random(seed)
        self._trial = Trial(path.absolute(), artefact.read)
        for _ in range(20):  # the first compile, import and fill caches
            outcome = self._trial.run(self.valid)
        assert outcome.kind == "read", outcome
        limit_memory()
        self._counts: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._tell_every = 10_000
        self._began = time.monotonic()

    def run(self, n_inputs: int) -> None:
        pool = [self.valid]
        for _ in range(n_inputs):
            files = self._mutated(self._generator.choice(pool), self._generator)
            if self._try(files) == "read" and len(pool) < 200:
                pool.append(files)  # what was accepted is a way to what lies behind it
        self._tell()

    def run_guided(self, n_inputs: int) -> None:
        import atheris

        options = [f"-runs={n_inputs}", f"-max_len={LARGEST}", "-rss_limit_mb=0"]
        corpus = self._folder / "corpus"
        corpus.mkdir(exist_ok=True)
        (corpus / "seed").write_bytes(_packed(self.valid))
        options += [f"-seed={self._generator.randrange(1, 2**31)}", str(corpus)]
        # libFuzzer ends the process at once: what is told last must be told before.
        self._tell_every = min(self._tell_every, n_inputs)
        atheris.Setup([sys.argv[0], *options], self._test_one, custom_mutator=self._mutate_one)
        atheris.Fuzz()

    def _test_one(self, data: bytes) -> None:
        files = _unpacked(data)
        if files is not None:
            self._try(files)

    def _mutate_one(self, data: bytes, max_size: int, seed: int) -> bytes:
        files = _unpacked(data) or self.valid
        packed = _packed(self._mutated(files, random.Random(seed)))
        return packed if len(packed) <= max_size else data

    def _mutated(self, files: Files, generator: random.Random) -> Files:
        changed = mutate(files, generator)
        return self._seal(self.name, changed) if generator.random() < 0.8 else changed

    def _try(self, files: Files) -> str:
        outcome = self._trial.run(files)
        self._counts[outcome.kind] += 1
        if outcome.kind == "fault":
            self._keep(outcome.what, files)
        total = self._counts.total()
        if total % self._tell_every == 0:
            self._tell()
        return outcome.kind

    def _keep(self, what: str, files: Files) -> None:
        signature = what.split(": ")[0]
        self._faults[signature] += 1
        if self._faults[signature] == 1:
            place = self._folder / f"fault-{len(self._faults)}"
            self._put(place, {f"artefact/{name}".rstrip("/"): files[name] for name in files})
            (self._folder / f"fault-{len(self._faults)}.txt").write_text(what)
            sys.stderr.write(f"{self.name}: {what}\n")

    def _tell(self) -> None:
        seconds = round(time.monotonic() - self._began)
        record = {"name": self.name, "seconds": seconds, **self._counts, "faults": self._faults}
        (self._folder / "record.json").write_text(json.dumps(record, indent=1))
        sys.stderr.write(f"{self.name}: {dict(self._counts)} in {seconds} s\n")


def _packed(files: Files) -> bytes:
    parts = []
    for name, content in sorted(files.items()):
        parts += [struct.pack("<HI", len(name.encode()), len(content)), name.encode(), content]
    return b"".join(parts)


def _unpacked(data: bytes) -> Files | None:
    files, place = {}, 0
    try:
        while place < len(data):
            n_name, n_content = struct.unpack_from("<HI", data, place)
            name, place = data[place + 6 :][:n_name].decode(), place + 6 + n_name
            files[name], place = data[place:][:n_content], place + n_content
    except (struct.error, UnicodeDecodeError):
        return None
    return files


if __name__ == "__main__":
    main()
