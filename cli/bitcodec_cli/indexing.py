"""index: build, change and describe an index of codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitcodec_cli.codecs import STDIO, open_source
from bitcodec_cli.options import (
    FOLDER,
    codec_argument,
    device_option,
    json_option,
    output_option,
    overwrite_option,
)
from bitcodec_cli.terminal import note, print_json

if TYPE_CHECKING:
    import numpy as np

    from bitcodec import BitCodec
    from bitcodec_faiss import PackedIndex

SCORES = ("hamming", "inner_product", "cosine", "l2")

index_argument = click.argument("index", type=FOLDER)
ids_option = click.option(
    "--ids", type=FOLDER, help="Ids of the rows: .npy of integers, text with one a line, or -."
)


@click.group()
def index() -> None:
    """Build, change and describe an index of codes."""


@index.command("build")
@codec_argument
@click.argument("source", type=FOLDER)
@output_option
@click.option("--factory", default="Flat", show_default=True, help="Flat, IVF1024, HNSW32, ...")
@click.option(
    "--scores",
    type=click.Choice(SCORES),
    help="What ranks: bits that differ, or a score of float queries; l2 suits hidden states, "
    "inner_product embeddings of length 1. By default inner_product for codecs with side bytes, "
    "else hamming.",
)
@ids_option
@device_option
@overwrite_option
@json_option
def build(
    codec: Path,
    source: Path,
    output: Path,
    factory: Any,
    scores: Any,
    ids: Path | None,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Build an index from packed codes or from hidden states.

    SOURCE is a .npy file that `bitcodec encode` wrote, or hidden states as `encode` takes them.
    Without --ids, ids are the row numbers.

    \b
    Example: bitcodec index build codec embeddings.npy -o index
    """
    from bitcodec import BitCodec
    from bitcodec.files import check_target
    from bitcodec_faiss import AsymmetricIndex, HammingIndex

    check_target(output, overwrite=overwrite)
    loaded = BitCodec.load(codec, device=device)
    metric: Any = scores or ("inner_product" if loaded.side_bytes_ else "hamming")
    built: PackedIndex = (
        HammingIndex(loaded, factory=factory)
        if metric == "hamming"
        else AsymmetricIndex(loaded, factory=factory, metric=metric)
    )
    _add(built, loaded, source, ids)
    built.save(output, overwrite=overwrite)
    _tell(f"wrote {output}", output, built, as_json=as_json)


@index.command("add")
@codec_argument
@index_argument
@click.argument("source", type=FOLDER)
@ids_option
@device_option
@json_option
def add(
    codec: Path, index: Path, source: Path, ids: Path | None, device: str, as_json: bool
) -> None:
    """Add rows to an index; the old one stays whole until the new one is written.

    SOURCE is as for `build`. Without --ids, ids go on from the largest so far.

    \b
    Example: bitcodec index add codec index more.npy
    """
    from bitcodec import BitCodec
    from bitcodec.locks import writing_alone
    from bitcodec_faiss import load_index

    loaded = BitCodec.load(codec, device=device)
    with writing_alone(index):  # from before it is read: what others add would be lost
        opened = load_index(index, loaded)
        n_before = len(opened)
        _add(opened, loaded, source, ids)
        opened.save(index, overwrite=True)
    _tell(f"added {len(opened) - n_before:,} rows to {index}", index, opened, as_json=as_json)


@index.command("remove")
@codec_argument
@index_argument
@click.argument("ids", type=FOLDER)
@json_option
def remove(codec: Path, index: Path, ids: Path, as_json: bool) -> None:
    """Remove rows from an index by their ids, all or none.

    IDS is a .npy file of integers, text with one id a line, or - for text on stdin.

    \b
    Example: echo 17 | bitcodec index remove codec index -
    """
    from bitcodec import BitCodec
    from bitcodec.locks import writing_alone
    from bitcodec_faiss import load_index

    gone, loaded = read_ids(ids), BitCodec.load(codec)
    with writing_alone(index):
        opened = load_index(index, loaded)
        opened.remove(gone)
        opened.save(index, overwrite=True)
    _tell(f"removed {len(gone):,} rows from {index}", index, opened, as_json=as_json)


@index.command("info")
@index_argument
@json_option
def info(index: Path, as_json: bool) -> None:
    """Describe an index; its codec is not needed.

    \b
    Example: bitcodec index info index
    """
    import dataclasses

    from bitcodec_faiss import read_index_header

    header = dataclasses.asdict(read_index_header(index))
    if as_json:
        print_json(header)
        return
    for name, value in header.items():
        click.echo(f"{name:<16} {value}")


def read_ids(path: Path) -> np.ndarray:
    """Return ids, (n,), of a .npy file or of text with one a line; - is text on stdin.

    Raises:
        FileError: there is no such file.
        FormatError: a line is no whole number, or the .npy file is damaged.
    """
    import numpy as np

    from bitcodec.errors import FileError, FormatError
    from bitcodec.files import open_npy

    if path.suffix == ".npy":
        return np.asarray(open_npy(path))
    try:
        with click.open_file(str(path), encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read ids from {path}: {error}") from error
    values = text.split()
    for number, value in enumerate(values, start=1):
        # The length first: Python converts no number of thousands of digits.
        if not (value.isascii() and value.isdecimal() and len(value) < 20) or int(value) >= 2**63:
            raise FormatError(
                f"{path}: id {number} must be a whole number of at least 0, got {value[:20]!r}"
            )
    return np.array([int(value) for value in values], dtype=np.int64)


def _add(opened: PackedIndex, codec: BitCodec, source: Path, ids: Path | None) -> None:
    from bitcodec.storage import open_packed, packed_header_path

    if ids == source == STDIO:
        raise click.UsageError("--ids and SOURCE cannot both be stdin: give a file for one")
    given = None if ids is None else read_ids(ids)
    if packed_header_path(source).is_file():
        header, packed = open_packed(source, fingerprint=codec.fingerprint_)
        if header.compute != codec.compute:
            note(
                f"warning: {source} was encoded in {header.compute}, while queries and hidden "
                f"states are encoded in {codec.compute} here: a few bits of a row differ between "
                f"the two; encode it with --compute {codec.compute} for codes that agree"
            )
        opened.add_packed(packed[:], ids=given)
    else:
        opened.add(open_source(source)[0], ids=given)


def _tell(what: str, folder: Path, opened: PackedIndex, *, as_json: bool) -> None:
    size = opened.bytes_per_vector if len(opened) else 0.0
    if as_json:
        print_json({"index": str(folder), "n_rows": len(opened), "bytes_per_vector": size})
    else:
        note(f"{what}: now {len(opened):,} codes, {size:.1f} bytes each")
