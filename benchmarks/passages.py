"""English text from Debian packages: passages for embedders, excerpts for language models.

Packages are read as downloaded (`apt-get download linux-doc-6.1 python3.11-doc perl-doc dict-gcide
wordnet-base`) or as unpacked by `dpkg-deb -x`; nothing is installed.
"""

from __future__ import annotations

import gzip
import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from bitcodec.errors import FileError

LONGEST = 1600
"""Characters of the longest passage; longer ones are lists and tables."""
EXCERPT = 1000
"""Characters after which an excerpt ends with its paragraph, about 250 tokens."""


@dataclass(frozen=True)
class TextPackage:
    """Where a package keeps its text, and how passages are cut from it."""

    name: str
    """The Debian package."""
    patterns: tuple[str, ...]
    """Names of the files that hold the text."""
    cut: Callable[[str], Iterator[str]]
    """Turns the text of one file into passages."""


def prose(text: str) -> Iterator[str]:
    """Yield paragraphs that are mostly letters and spaces: no code, no tables."""
    for paragraph in _paragraphs(text):
        letters = sum(character.isalpha() or character == " " for character in paragraph)
        if 150 <= len(paragraph) <= LONGEST and letters > 0.85 * len(paragraph):
            yield paragraph


def dictionary_entries(text: str) -> Iterator[str]:
    """Yield the paragraphs of a dictionary without its marks of source and cross-reference."""
    for paragraph in _paragraphs(text):
        entry = re.sub(r"\[[^\]]*\]|[{}]", "", paragraph)
        if 100 <= len(entry) <= LONGEST:
            yield entry


def glosses(text: str) -> Iterator[str]:
    """Yield the definitions of WordNet's data files: what follows the bar."""
    for line in text.split("\n"):
        if "|" in line and not line.startswith(" "):
            yield line.split("|", 1)[1].strip()


PACKAGES = (
    TextPackage("linux-doc-6.1", ("*.rst.gz",), prose),
    TextPackage("python3.11-doc", ("*.txt",), prose),
    TextPackage("perl-doc", ("*.pod",), prose),
    TextPackage("dict-gcide", ("*.dz",), dictionary_entries),
    TextPackage("wordnet-base", ("data.noun", "data.verb", "data.adj", "data.adv"), glosses),
)


def read_passages(folder: Path, *, n_passages: int, seed: int = 0) -> dict[str, list[str]]:
    """Draw passages from every package.

    Args:
        folder: holds, for each of `PACKAGES`, a folder of its name or its .deb file.
        n_passages: at most so many of a package.
        seed: of the draw.

    Returns:
        Distinct passages by package, in random order.

    Raises:
        FileError: a package is not there, or holds no passages.
    """
    return {
        package.name: _draw(_distinct(folder, package), n_passages, seed=seed)
        for package in PACKAGES
    }


def read_excerpts(
    folder: Path, names: Sequence[str], *, held_out: float = 0.1, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Cut the files of packages into excerpts of whole paragraphs, code and tables included.

    Args:
        folder: as in `read_passages`.
        names: of packages, which take turns in the result.
        held_out: the share of every package's files that is kept apart.
        seed: of the choice of files and of the order.

    Returns:
        Distinct excerpts to fit on and excerpts of the files kept apart, each in random order.

    Raises:
        FileError: a package is not there, or holds no text.
    """
    draw = random.Random(seed)
    parts: tuple[list[list[str]], list[list[str]]] = ([], [])
    known = {package.name: package for package in PACKAGES}
    for package in [known[name] for name in names]:
        texts = sorted(set(_texts(folder, package)))
        draw.shuffle(texts)
        n_held_out = max(1, round(held_out * len(texts)))
        for part, chosen in zip(parts, (texts[n_held_out:], texts[:n_held_out]), strict=True):
            cut = sorted({excerpt for text in chosen for excerpt in _excerpts(text)})
            part.append(draw.sample(cut, len(cut)))
    fitted, kept_apart = (
        [text for turn in zip_longest(*part) for text in turn if text] for part in parts
    )
    seen = set(fitted)
    return fitted, [text for text in kept_apart if text not in seen]


def _excerpts(text: str) -> Iterator[str]:
    paragraphs: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        paragraphs.append(paragraph)
        if sum(map(len, paragraphs)) >= EXCERPT:
            yield "\n\n".join(paragraphs)
            paragraphs = []
    if sum(map(len, paragraphs)) >= EXCERPT / 4:
        yield "\n\n".join(paragraphs)


def _draw(passages: list[str], n_passages: int, *, seed: int) -> list[str]:
    return random.Random(seed).sample(passages, min(n_passages, len(passages)))


def _distinct(folder: Path, package: TextPackage) -> list[str]:
    passages = sorted(
        {passage for text in _texts(folder, package) for passage in package.cut(text)}
    )
    if not passages:
        raise FileError(f"{folder} must hold the text of {package.name}, found none")
    return passages


def _texts(folder: Path, package: TextPackage) -> list[str]:
    """Return the texts of a package's files, in the order of their names."""
    unpacked = folder / package.name
    if unpacked.is_dir():
        return _read_unpacked(unpacked, package)
    archives = sorted(folder.glob(f"{package.name}_*.deb"))
    if not archives:
        raise FileError(
            f"{folder} must hold {package.name}: download it there with "
            f"`apt-get download {package.name}`"
        )
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(["dpkg-deb", "-x", str(archives[-1]), temporary], check=True)
        return _read_unpacked(Path(temporary), package)


def _read_unpacked(root: Path, package: TextPackage) -> list[str]:
    files = sorted(path for pattern in package.patterns for path in root.rglob(pattern))
    return [_read_text(path) for path in files if path.is_file()]


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        data = gzip.decompress(data)
    return data.decode("utf-8", errors="ignore").replace("\r\n", "\n")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        yield " ".join(paragraph.split())
