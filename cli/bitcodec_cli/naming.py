"""name: what features are on at, in words, and whether the words hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitcodec_cli.archives import open_codes
from bitcodec_cli.codecs import open_source
from bitcodec_cli.judges import KINDS, JudgeKind, judge_options, make_judge
from bitcodec_cli.options import (
    FOLDER,
    codec_argument,
    device_option,
    json_option,
    overwrite_option,
)
from bitcodec_cli.provenance import find_harvest
from bitcodec_cli.terminal import note, output_console, print_json, progress_bar

if TYPE_CHECKING:
    import numpy as np

    from bitcodec import BitCodec
    from bitcodec_naming import FeatureRows, Names, Spending

N_NAMED = {"tokens": 40, "lexical": 40, "chat": 10, "endpoint": 20}
"""Contexts that a judge of each kind names a feature from; small models read little."""
N_FEATURES: dict[str, int | None] = {"tokens": None, "lexical": None, "chat": 50, "endpoint": 50}
"""Features that are named; all where that costs nothing."""


@click.command()
@codec_argument
@click.argument("hidden", type=FOLDER)
@click.option(
    "--judge",
    "kind",
    type=KINDS,
    default="lexical",
    show_default=True,
    help="Rules over tokens; rules over tokens, words and their classes; a chat model on this "
    "machine; one behind an OpenAI-compatible endpoint.",
)
@judge_options
@click.option("--codes", type=FOLDER, help="Codes of HIDDEN that `bitcodec encode` wrote.")
@click.option("--harvest", type=FOLDER, help="Harvest of HIDDEN, where it is not found by itself.")
@click.option("--feature", "features", type=int, multiple=True, help="Name this feature.")
@click.option(
    "--sample",
    type=click.IntRange(1),
    help="Name so many features, drawn at random; by default all, with a language model 50.",
)
@click.option(
    "--contexts",
    type=(click.IntRange(1), click.IntRange(1)),
    help="Contexts of a feature to name it from, and to test the name on; by default 40 and 12, "
    "with a chat model 10 and 12, at an endpoint 20 and 12.",
)
@click.option(
    "--top-k",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="A row is a context of so many of its most bursty features; 0 for all.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of every choice.")
@click.option("-o", "--output", type=FOLDER, help="Write names and answers as JSON.")
@click.option("--picture", type=FOLDER, help="Draw the scores, a .png.")
@click.option("--beside", type=FOLDER, help="Names of other features, compared at equal activity.")
@click.option("--rows", type=click.IntRange(0), default=20, show_default=True, help="Names shown.")
@json_option
@device_option
@overwrite_option
def name(
    codec: Path,
    hidden: Path,
    kind: JudgeKind,
    codes: Path | None,
    harvest: Path | None,
    features: tuple[int, ...],
    sample: int | None,
    contexts: tuple[int, int] | None,
    top_k: int,
    seed: int,
    output: Path | None,
    picture: Path | None,
    beside: Path | None,
    rows: int,
    as_json: bool,
    device: str,
    overwrite: bool,
    **judging: Any,
) -> None:
    """Name what features are on at, and test the names on other documents.

    HIDDEN is a harvest, or hidden states whose --harvest tells the texts. A judge names each
    feature from contexts and counter-examples, and then tells by the name alone, in other
    documents, where it is on: the score is the share of right answers, one half by chance. As a
    control, every feature is also tested under the name of another.

    \b
    Example: bitcodec name codec hidden -o names.json
             bitcodec name codec hidden --judge endpoint --model MODEL --url http://host:8000/v1
             bitcodec name codec hidden --judge endpoint --model MODEL --price .4 1.6 --dry-run
    """
    from bitcodec import BitCodec
    from bitcodec.files import check_target
    from bitcodec_naming import Names, NamingSettings, name_features

    for target in (output, picture):
        if target is not None:
            check_target(target, overwrite=overwrite)
    other = None if beside is None else Names.load(beside)
    judge = make_judge(kind, device=device, **judging)
    n_named, n_tested = contexts or (N_NAMED[kind], NamingSettings.n_tested)
    settings = NamingSettings(
        n_features=sample or (None if features else N_FEATURES[kind]),
        n_named=n_named,
        n_tested=n_tested,
        top_k=top_k or None,
        seed=seed,
    )
    source = feature_rows(BitCodec.load(codec, device=device), hidden, codes, harvest)
    with progress_bar("name", total=None, unit="steps") as advance:
        found = name_features(
            source,
            judge,
            settings=settings,
            features=features or None,
            progress=lambda done, total: advance(done, f"of {total:,}"),
        )
    if judging["dry_run"]:
        print_json(judge.spending)  # type: ignore[attr-defined]  # dry runs are of endpoints
        return
    _write(found, other, output=output, picture=picture, overwrite=overwrite)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found, other, n_shown=rows)
    if kind == "endpoint":
        note(spending_line(judge.spending))  # type: ignore[attr-defined]


def feature_rows(
    codec: BitCodec, hidden: Path, codes: Path | None, harvest: Path | None
) -> FeatureRows:
    """Return the codes of hidden states with their texts.

    Raises:
        click.UsageError: no harvest tells the texts.
    """
    from bitcodec.bits import row_bytes
    from bitcodec_naming import FeatureRows
    from bitcodec_transformers import read_rows

    folder = harvest or find_harvest(hidden)
    if folder is None:
        raise click.UsageError("names need the texts of the rows: name their --harvest")
    packed = _encoded(codec, hidden) if codes is None else _codes(codes, codec)
    bits = packed[:, : row_bytes(codec.n_bits_)]
    return FeatureRows(bits, codec.n_bits_, read_rows(folder), codec.fingerprint_)


def _encoded(codec: BitCodec, hidden: Path) -> np.ndarray:
    import numpy as np

    source, n_rows = open_source(hidden)
    parts = [np.empty((0, codec.row_bytes_), np.uint8)]
    with progress_bar("encode", total=n_rows, unit="rows") as advance:
        for packed in codec.encode_batches(source):
            parts.append(packed)
            advance(sum(map(len, parts)))
    return np.concatenate(parts)


def _codes(codes: Path, codec: BitCodec) -> np.ndarray:
    packed: np.ndarray = open_codes(codes, fingerprint=codec.fingerprint_)[:]
    return packed


def _write(
    found: Names,
    other: Names | None,
    *,
    output: Path | None,
    picture: Path | None,
    overwrite: bool,
) -> None:
    from bitcodec_naming import save_scores

    if output is not None:
        found.save(output, overwrite=overwrite)
        note(f"wrote {output}")
    if picture is not None:
        drawn = {"these": found} | ({} if other is None else {"beside": other})
        save_scores(drawn, picture, overwrite=overwrite)
        note(f"wrote {picture}")


def _print(found: Names, other: Names | None, *, n_shown: int) -> None:
    from bitcodec_cli.name_tables import name_tables

    console = output_console()
    for table in name_tables(found, beside=other, n_shown=n_shown):
        console.print(table)
        console.print()


def spending_line(spent: Spending) -> str:
    """Say what an endpoint was asked and what it cost."""
    return (
        f"{spent.n_requests:,} requests, {spent.n_cached:,} from the cache; "
        f"{spent.prompt_tokens:,} tokens read and {spent.completion_tokens:,} written, "
        f"${spent.dollars:.4f}"
    )
