"""What happens to files on disks and wires: single bytes that change, and ends that are lost.

python -m tests.fuzz.damage codec --flips 10000
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.mutations import Files

BLOCK = 64
"""Bytes between two places at which a file is cut."""


def damaged(
    files: Files, *, n_flips: int, generator: random.Random, n_cuts: int = 40
) -> Iterator[tuple[str, Files]]:
    """Yield damaged copies of an artefact, with what was done to them.

    Args:
        files: of the artefact.
        n_flips: single bytes to change; every byte once where there are fewer.
        generator: chooses which, and to what.
        n_cuts: places per file to cut it at; every block's end where there are fewer.
    """
    places = [(name, place) for name, content in files.items() for place in range(len(content))]
    for name, place in generator.sample(places, min(n_flips, len(places))):
        changed = bytearray(files[name])
        changed[place] ^= generator.choice(
            (1, 2, 4, 8, 16, 32, 64, 128, generator.randrange(1, 256))
        )
        yield f"{name} changed at byte {place}", files | {name: bytes(changed)}
    for name, content in files.items():
        cuts = sorted({*range(0, len(content), BLOCK), len(content) - 1} - {-1})
        for length in sorted(generator.sample(cuts, min(n_cuts, len(cuts)))):
            yield f"{name} cut to {length} bytes", files | {name: content[:length]}
        yield f"{name} lost", {other: files[other] for other in files if other != name}


def main() -> None:
    """Damage an artefact in many ways and count what came of it."""
    from tests.artefacts import ARTEFACTS
    from tests.fuzz.trial import Trial, take

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=sorted(ARTEFACTS))
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--cuts", type=int, default=10_000)
    arguments = parser.parse_args()
    for name in arguments.names:
        artefact = ARTEFACTS[name]
        path = Path(tempfile.mkdtemp(dir="/dev/shm")) / "artefact"
        artefact.write(path)
        files, expected = take(path), repr(artefact.read(path))
        trial, counts = Trial(path, artefact.read), Counter[str]()
        ways = damaged(
            files, n_flips=arguments.flips, generator=random.Random(1), n_cuts=arguments.cuts
        )
        for what, changed in ways:
            outcome = trial.run(changed)
            kind = "same" if repr(outcome.value) == expected else outcome.kind
            counts[kind] += 1
            if kind in ("read", "fault"):
                sys.stderr.write(f"{name}: {what}: {kind} {outcome.what}\n")
        sys.stdout.write(json.dumps({"name": name, **counts}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
