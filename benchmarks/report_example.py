r"""The example of a report's page: what a code of layer 15 of SmolLM2-135M says of CPython's texts.

The texts are those that every Python brings: the help topics, and the docstrings of the standard
library, a document for each module. They are CPython's and under its licence. The codec is fitted
on the rows that the page shows.

    python -m benchmarks.report_example --work FOLDER
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from click.testing import CliRunner

from bitcodec_cli.main import main as bitcodec
from bitcodec_transformers import pydoc_topics

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
N_ROWS = 210_000
LAYER = 15
SHORTEST_DOCSTRING, SHORTEST_DOCUMENT = 60, 400
"""Characters."""
ADDRESS = re.compile(r"\S+@\S+\.\w+")


def main() -> int:
    """Harvest, fit and report; what exists in the work folder is used again."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for what is in between")
    work = parser.parse_args().work
    work.mkdir(exist_ok=True)
    documents, hidden, codec = work / "documents.jsonl", work / "hidden", work / "codec"
    if not documents.exists():
        lines = (json.dumps({"id": name, "text": text}) for name, text in python_texts())
        documents.write_text("\n".join(lines), encoding="utf-8")
    run("harvest", documents, "-o", hidden, "--layer", LAYER, "--max-rows", N_ROWS)
    if not codec.exists():
        run("fit", hidden, "-o", codec, "--entropy-weight", 0.2)
    page = EXAMPLES / f"smollm2-layer-{LAYER}.html"
    text = EXAMPLES / "text.txt"
    shown = ("--model", "smollm2-135m", "--text", text, "--contexts", 4, "--overwrite")
    print(run("report", codec, hidden, "-o", page, "--json", work / "report.json", *shown))
    return 0


def python_texts() -> Iterator[tuple[str, str]]:
    """Yield name and text of the help topics and of the standard library's docstrings."""
    for topic in pydoc_topics():
        yield topic.id, topic.text
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*library.glob("*.py"), *library.glob("[a-z]*/*.py")]):
        if {"site-packages", "test", "idlelib", "lib2to3"} & set(path.parts):
            continue
        text = docstrings_of(path)
        if len(text) >= SHORTEST_DOCUMENT:
            yield path.relative_to(library).as_posix(), text


def docstrings_of(path: Path) -> str:
    """Return a module's longer docstrings, those with addresses left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    kept = [text for text in found if text and len(text) >= SHORTEST_DOCSTRING]
    return "\n\n".join(text for text in kept if not ADDRESS.search(text))


def run(*arguments: object) -> str:
    """Run one command of bitcodec and return what it prints."""
    result = CliRunner().invoke(bitcodec, [str(argument) for argument in arguments])
    if result.exit_code != 0:
        raise RuntimeError(result.output) from result.exception
    return result.stdout


if __name__ == "__main__":
    sys.exit(main())
