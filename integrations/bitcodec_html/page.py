"""The page: its template filled."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import bitcodec
from bitcodec.extras import import_extra
from bitcodec.files import PathLike, atomic_path, check_target
from bitcodec.report import Report
from bitcodec_html import overview
from bitcodec_html.effects import TokenEffects
from bitcodec_html.figures import plots
from bitcodec_html.names import FeatureNames
from bitcodec_html.packing import embed
from bitcodec_html.payload import FLAGS, coder_prices, payload, text_entry
from bitcodec_html.table_library import licence_notices, table_library
from bitcodec_html.texts import EncodedText

SCRIPTS = (
    "data.js",
    "elements.js",
    "passages.js",
    "table.js",
    "feature.js",
    "text.js",
    "main.js",
)
"""The page's scripts; laid end to end they are one module."""


def write_page(
    report: Report,
    path: PathLike,
    *,
    title: str | None = None,
    effects: TokenEffects | None = None,
    texts: Sequence[EncodedText] = (),
    names: FeatureNames | None = None,
    overwrite: bool = False,
) -> None:
    """Write a report as one HTML file that needs no server and no network.

    Args:
        report: what `BitCodec.report` gave, or `Report.load` read.
        path: of the file; it appears whole or not at all.
        title: of the page; by default it names the number of features and of rows.
        effects: of the features on a model's next token.
        texts: encoded with the report's codec, see `encoded_texts`.
        names: of features, as `bitcodec name` gives them.
        overwrite: replace an existing file.

    Raises:
        ShapeError: effects or texts are of another number of features.
        MismatchError: the names are of another codec.
        FileError: `path` exists and `overwrite` is false, or cannot be written.
        MissingExtraError: jinja2, matplotlib or itables is not installed.
    """
    content = page_html(report, title=title, effects=effects, texts=texts, names=names)
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(content, encoding="utf-8")


def check_page(path: PathLike, *, overwrite: bool = False) -> None:
    """Raise if a page could not be written, before its report is measured.

    Args:
        path: of the page.
        overwrite: replace an existing file.

    Raises:
        FileError: `path` exists and `overwrite` is false, or its folder is missing or read-only.
        MissingExtraError: jinja2, matplotlib or itables is not installed.
        FormatError: this itables does not bring DataTables as it should.
    """
    check_target(path, overwrite=overwrite)
    for package in ("jinja2", "matplotlib"):
        import_extra(package, extra="report")
    table_library()


def page_html(
    report: Report,
    *,
    title: str | None = None,
    effects: TokenEffects | None = None,
    texts: Sequence[EncodedText] = (),
    names: FeatureNames | None = None,
) -> str:
    """Return the page that `write_page` writes.

    Args:
        report: as for `write_page`.
        title: as for `write_page`.
        effects: as for `write_page`.
        texts: as for `write_page`.
        names: as for `write_page`.

    Raises:
        ShapeError: effects or texts are of another number of features.
        MismatchError: the names are of another codec.
        MissingExtraError: jinja2, matplotlib or itables is not installed.
    """
    found = report.evaluation
    title = title or f"{found.n_bits:,} features on {found.n_rows:,} rows"
    data = payload(report, title=title, effects=effects, texts=texts, names=names)
    library, script = table_library(), "\n".join(asset(name) for name in SCRIPTS)
    return str(
        _template().render(
            title=title,
            lede=lede(report),
            version=bitcodec.__version__,
            style=asset("style.css"),
            script=script,
            script_hash=script_hash(script),
            data=embed(data),
            library=embed(library.encode()),
            notices=licence_notices(library),
            evaluation=found,
            measures=overview.measures(report),
            plots=plots(report),
            starts=overview.starts(report),
            pairs=overview.pairs(report),
            worst=overview.worst(report),
            mean_error=overview.digits(found.fvu),
            columns=overview.COLUMN_MEANINGS.items(),
            about=overview.about(report),
            settings=overview.settings(report),
            flags=FLAGS,
            has_effects=effects is not None,
            has_names=names is not None,
            texts=text_heads(report, texts),
        )
    )


def lede(report: Report) -> str:
    """Say in a line what codec and rows the page is of."""
    found, told = report.evaluation, report.codec.provenance
    model = told.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    of = f" of {name}, layer {told.get('layer')}" if name else ""
    return (
        f"A binary code for hidden states{of}: {found.n_dims:,} floats become {found.n_bits:,} "
        f"bits. Measured on {found.n_rows:,} rows."
    )


def text_heads(report: Report, texts: Sequence[EncodedText]) -> list[dict[str, str]]:
    """Return title and summary of the encoded texts."""
    prices = coder_prices(report)
    heads = []
    for text in texts:
        costs = text_entry(text, prices)["price_bits"]
        mean = sum(costs) / max(1, len(costs))
        summary = (
            f"{len(costs):,} tokens, {mean:,.1f} bits each on average; the rows of the report cost "
            f"{report.entropy.sum_bits:,.1f}."
        )
        heads.append({"title": text.title, "summary": summary})
    return heads


def asset(name: str) -> str:
    """Read one of the page's own files."""
    file = resources.files("bitcodec_html") / "assets" / name
    return file.read_text(encoding="utf-8").rstrip("\n")


def script_hash(script: str) -> str:
    """Name a script for a content security policy, which lets this one run and no other."""
    digest = hashlib.sha256(script.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _template() -> Any:
    jinja2 = import_extra("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")
