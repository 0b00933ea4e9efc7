"""Make the golden files of every format but range coding's, in the newest version of each.

Run it when a format gets a new version, into an empty folder, and commit what is new beside the old
files: `PYTHONPATH=.:integrations python -m tests.golden.make_formats FOLDER`. The files of older
versions were made by the releases that wrote them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.artefacts import ARTEFACTS, VERSIONS


def main(folder: Path) -> None:
    """Write one artefact of every format, named by format and version."""
    for name, version in VERSIONS.items():
        ARTEFACTS[name].write(folder / f"{name}_v{version}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
