"""report: what a codec has learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitcodec_cli.archives import open_codes
from bitcodec_cli.codecs import STDIO, open_source
from bitcodec_cli.options import FOLDER, codec_argument, device_option, overwrite_option
from bitcodec_cli.provenance import find_harvest
from bitcodec_cli.report_page import prepare_page
from bitcodec_cli.terminal import note, output_console, progress_bar

if TYPE_CHECKING:
    import numpy as np

    from bitcodec import BitCodec
    from bitcodec.pictures import Format
    from bitcodec.report import Report, ReportSettings
    from bitcodec.row_texts import RowTexts
    from bitcodec_cli.group_tables import Grouping


@click.command()
@codec_argument
@click.argument("hidden", type=FOLDER)
@click.option("--codes", type=FOLDER, help="Codes of HIDDEN that `bitcodec encode` wrote.")
@click.option("--harvest", type=FOLDER, help="Harvest of HIDDEN, where it is not found by itself.")
@click.option("-o", "--output", type=FOLDER, help="Write the page, one HTML file.")
@click.option("--model", help="Page: what features say of this model's next token. Name or path.")
@click.option(
    "--text", "texts", multiple=True, help="Page: a text, or .txt or .jsonl file, to encode."
)
@click.option("--names", type=FOLDER, help="Page: names that `bitcodec name` wrote.")
@click.option("--title", help="Of the page.")
@click.option("--json", "json_file", type=FOLDER, help="Write the whole report as JSON.")
@click.option("--pictures", type=FOLDER, help="Folder to draw pictures into.")
@click.option(
    "--format",
    "picture_format",
    type=click.Choice(["png", "svg"]),
    default="png",
    show_default=True,
    help="Of the pictures.",
)
@click.option(
    "--feature", "features", type=int, multiple=True, help="Show this feature's contexts."
)
@click.option(
    "--contexts",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    help="Contexts of each kind that a feature is reported with.",
)
@click.option("--rows", type=click.IntRange(0), default=8, show_default=True, help="Of each table.")
@click.option(
    "--by",
    type=click.Choice(["position", "token", "document"]),
    help="Print the entropy of groups of rows instead.",
)
@click.option("--archive", is_flag=True, help="Also measure an archive with a context table; slow.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random contexts.")
@device_option
@overwrite_option
def report(
    codec: Path,
    hidden: Path,
    codes: Path | None,
    harvest: Path | None,
    output: Path | None,
    model: str | None,
    texts: tuple[str, ...],
    names: Path | None,
    title: str | None,
    json_file: Path | None,
    pictures: Path | None,
    picture_format: Format,
    features: tuple[int, ...],
    contexts: int,
    rows: int,
    by: Grouping | None,
    archive: bool,
    seed: int,
    device: str,
    overwrite: bool,
) -> None:
    """Report what a codec does to hidden states and what its features are on at.

    HIDDEN is a harvest, or a folder or file of .npy, .safetensors or .arrow; texts come from its
    harvest.
    Without options the tables are printed. The page needs no server and no network; with --text it
    takes the harvest's model, whose effects it then shows too.

    \b
    Example: bitcodec report codec hidden
             bitcodec report codec hidden -o report.html --text "To be or not to be"
             bitcodec report codec hidden --feature 12 --json report.json --pictures pictures
    """
    from bitcodec import BitCodec, ReportSettings
    from bitcodec.files import check_target
    from bitcodec.pictures import check_pictures

    if output is None and (model or texts or names or title):
        raise click.UsageError("--model, --text, --names and --title are of the page: give -o too")
    if json_file is not None:
        check_target(json_file, overwrite=overwrite)
    if pictures is not None:
        check_pictures(pictures, format=picture_format, overwrite=overwrite)
    loaded = BitCodec.load(codec, device=device)
    _check_features(features, loaded.n_bits_)
    if by is not None:
        _print_groups(loaded, hidden, by, codes=codes, harvest=harvest, n_shown=rows)
        return
    page = None
    if output is not None:
        page = prepare_page(
            loaded,
            output,
            hidden=hidden,
            model=model,
            texts=texts,
            names=names,
            title=title,
            device=device,
            overwrite=overwrite,
        )
    measured = _measure(
        loaded,
        hidden,
        codes=codes,
        harvest=harvest,
        settings=ReportSettings(n_contexts=contexts, seed=seed, measure_archive=archive),
    )
    if json_file is not None:
        measured.save(json_file, overwrite=overwrite)
        note(f"wrote {json_file}")
    if page is not None:
        page.write(measured)
    if pictures is not None:
        _draw(measured, pictures, picture_format, overwrite=overwrite)
    if features or (json_file is None and pictures is None and output is None):
        _print(measured, codec, features=features, n_shown=rows)


def _measure(
    codec: BitCodec,
    hidden: Path,
    *,
    codes: Path | None,
    harvest: Path | None,
    settings: ReportSettings,
) -> Report:
    """Measure a report with a progress bar on stderr."""
    source, n_rows = open_source(hidden)
    packed = None if codes is None else _read_codes(codes, codec)
    text = _texts(hidden, harvest)
    with progress_bar("report", total=n_rows, unit="rows") as advance:
        return codec.report(source, text=text, packed=packed, settings=settings, on_rows=advance)


def _print_groups(
    codec: BitCodec,
    hidden: Path,
    by: Grouping,
    *,
    codes: Path | None,
    harvest: Path | None,
    n_shown: int,
) -> None:
    """Print the entropy of the rows' codes by group."""
    from bitcodec.row_texts import check_aligned
    from bitcodec_cli.group_tables import count_groups, group_table

    texts = _texts(hidden, harvest)
    if texts is None:
        raise click.UsageError("--by needs the texts of the rows: name their --harvest")
    packed = codec.encode(open_source(hidden)[0]) if codes is None else _read_codes(codes, codec)
    check_aligned(texts, len(packed))
    groups = count_groups(codec, packed, texts, by)
    output_console().print(group_table(groups, texts, by, n_shown=n_shown))


def _read_codes(codes: Path, codec: BitCodec) -> np.ndarray:
    packed: np.ndarray = open_codes(codes, fingerprint=codec.fingerprint_)[:]
    return packed


def _texts(hidden: Path, harvest: Path | None) -> RowTexts | None:
    if harvest is None and hidden != STDIO:
        harvest = find_harvest(hidden)
    if harvest is None:
        note("no harvest tells of the rows' texts: contexts are row numbers only")
        return None
    from bitcodec_transformers import read_rows

    return read_rows(harvest)


def _check_features(features: tuple[int, ...], n_bits: int) -> None:
    for feature in features:
        if not 0 <= feature < n_bits:
            raise click.BadParameter(f"--feature must be between 0 and {n_bits - 1}, got {feature}")


def _draw(measured: Report, folder: Path, picture_format: Format, *, overwrite: bool) -> None:
    from bitcodec.pictures import save_pictures

    for path in save_pictures(measured, folder, format=picture_format, overwrite=overwrite):
        note(f"wrote {path}")


def _print(measured: Report, codec: Path, *, features: tuple[int, ...], n_shown: int) -> None:
    from bitcodec_cli.report_tables import feature_view, overview

    console = output_console()
    tables = [table for feature in features for table in feature_view(measured, feature)]
    for table in tables or overview(measured, name=str(codec), n_shown=n_shown):
        console.print(table)
        console.print()
