"""fit, encode, decode and eval: what a codec does to files of hidden states."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitcodec_cli.archives import ARCHIVE_SUFFIX, TableKind, encode_archive, open_codes
from bitcodec_cli.options import (
    FOLDER,
    codec_argument,
    compute_option,
    device_option,
    json_option,
    output_option,
    overwrite_option,
)
from bitcodec_cli.terminal import note, noted_warnings, output_console, print_json, progress_bar

if TYPE_CHECKING:
    import numpy as np

    from bitcodec import BitCodec, TrainingRecord
    from bitcodec.batches import HiddenSource
    from bitcodec.config import Precision
    from bitcodec.packed_rows import PackedRows
    from bitcodec_zarr import PackedArchive

STDIO = Path("-")


@click.command()
@click.argument("hidden", nargs=-1, required=True, type=FOLDER)
@output_option
@click.option(
    "--preset",
    default="archive",
    show_default=True,
    help="archive, search, hamming, features, paper or published.",
)
@click.option("--expansion", type=float, help="Bits per dimension.")
@click.option("--n-bits", type=int, help="Bits of a code, instead of --expansion.")
@click.option("--target-bits", type=float, help="Bits that a coded row is to take.")
@click.option("--target-fvu", type=float, help="Fraction of variance unexplained to end at.")
@click.option("--entropy-weight", type=float, help="Price of entropy; 0 gives dense codes.")
@click.option("--covariance-weight", type=float, help="Price of correlated bits.")
@click.option("--scaling", type=click.Choice(["dimension", "global"]), help="Of the input.")
@click.option("--initial-activity", type=float, help="Share of rows a bit starts on in.")
@click.option("--n-steps", type=int, help="Minibatches of training.")
@click.option("--batch-size", type=int, help="Rows of a minibatch.")
@click.option("--learning-rate", type=float, help="Adam's largest rate.")
@click.option("--surrogate", help="sigmoid, clipped, gumbel, identity or published.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Of training.")
@click.option("--prune/--no-prune", default=None, help="Drop bits that do not earn their price.")
@click.option("--patience", type=int, help="Validations without a better one before it stops.")
@click.option("--validation", type=FOLDER, help="Hidden states to measure on while training.")
@click.option(
    "--sensitivity", type=FOLDER, help="File of `bitcodec sensitivity`, by which errors count."
)
@click.option("--sensitivity-share", type=float, help="Its share in an error.  [default: 0.5]")
@click.option("--checkpoint", type=FOLDER, help="File to keep the state in and to go on from.")
@click.option("--checkpoint-every", type=int, help="Steps between two states.  [default: 100]")
@click.option("--constant", type=click.Choice(["refuse", "keep"]), help="Constant dimensions.")
@click.option("--seed", type=int, help="Of everything random.")
@device_option
@overwrite_option
@json_option
def fit(
    hidden: tuple[Path, ...],
    output: Path,
    preset: str,
    validation: Path | None,
    sensitivity: Path | None,
    checkpoint: Path | None,
    checkpoint_every: int | None,
    overwrite: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Learn a codec from hidden states and write its folder.

    HIDDEN is a harvest, a folder, globs or files of .npy, .safetensors or .arrow. With
    --checkpoint a fit that was stopped goes on where it was; with --sensitivity errors count as
    the model minds them.

    \b
    Example: bitcodec fit hidden -o codec --n-steps 500
             bitcodec fit hidden -o codec --target-bits 200 --checkpoint fit.state
             torchrun --nproc-per-node 2 -m bitcodec_cli fit hidden -o codec
    """
    from bitcodec import BitCodec
    from bitcodec.parallel import joined_processes, rank
    from bitcodec.storage import check_codec_target
    from bitcodec_cli.provenance import describe_source
    from bitcodec_cli.sensing import read_sensitivity

    chosen = {name: value for name, value in given.items() if value is not None}
    if sensitivity is None and "sensitivity_share" in chosen:
        raise click.UsageError("--sensitivity-share is the share of a --sensitivity: name its file")
    codec = BitCodec.preset(preset, **chosen)
    with joined_processes():
        check_codec_target(output, overwrite=overwrite)
        first = rank() == 0
        provenance = describe_source(hidden[0])
        kept: dict[str, Any] = {"validation": validation, "checkpoint": checkpoint}
        if sensitivity is not None:
            kept["sensitivity"], provenance["sensitivity"] = read_sensitivity(
                sensitivity, provenance
            )
        if checkpoint_every is not None:
            kept["checkpoint_every"] = checkpoint_every
        if not first:
            codec.fit(list(hidden), provenance=provenance, **kept)
            return
        fit_with_bar(codec, list(hidden), title="fit", provenance=provenance, **kept)
    codec.save(output, overwrite=overwrite)
    result = {
        "codec": str(output),
        "fingerprint": codec.fingerprint_,
        "n_dims": codec.n_dims_,
        "n_bits": codec.n_bits_,
        "entropy_bits": codec.statistics_.entropy_bits,
    }
    if as_json:
        print_json(result)
    else:
        note(
            f"wrote {output}: {codec.n_dims_} dimensions to {codec.n_bits_} bits, "
            f"{result['entropy_bits']:.1f} bits of entropy"
        )


def fit_with_bar(
    codec: BitCodec, source: HiddenSource, *, title: str, provenance: dict[str, Any], **more: Any
) -> None:
    """Fit a codec with a progress bar on stderr, with more arguments as `fit` takes them."""
    with noted_warnings(), progress_bar(title, total=codec.n_steps, unit="steps") as advance:

        def show(record: TrainingRecord) -> None:
            figures = f"fvu {record.fvu:.3f}, {record.entropy_bits:.0f} bits"
            last = record.step == record.n_steps
            advance(record.step, f"{figures}; finishing" if last else figures)

        codec.fit(source, on_record=show, provenance=provenance, **more)


@click.command()
@codec_argument
@click.argument("hidden", type=FOLDER)
@output_option
@click.option(
    "--table",
    type=click.Choice(["independent", "profiles", "context"]),
    help="Model of an archive's entropy coder: a probability a bit (default); profiles learned on "
    "the first 65,536 codes, which take fewer bytes and more time; or what earlier bits and the "
    "row before tell of a bit, learned on the first 131,072, which take fewest from some ten "
    "thousand rows on.",
)
@click.option(
    "--rdo",
    is_flag=True,
    help="With --table context: encode a second time and search every code at what its bits cost "
    "under the table (rate-distortion optimisation): less error in about as many bytes, in 8 to 20 "
    "times the time.",
)
@compute_option
@device_option
@overwrite_option
def encode(
    codec: Path,
    hidden: Path,
    output: Path,
    table: TableKind | None,
    rdo: bool,
    compute: Precision,
    device: str,
    overwrite: bool,
) -> None:
    """Encode hidden states into packed codes, as a stream.

    HIDDEN is a harvest, a folder, a glob, a .npy, .safetensors or .arrow file, or - for .npy on
    stdin.
    OUTPUT is a .npy file of bytes, with its header in OUTPUT.json; a .zarr archive of codes near
    their entropy; or - for .npy on stdout.

    \b
    Example: bitcodec encode codec hidden.npy -o codes.npy
             bitcodec encode codec hidden.npy -o codes.zarr --table context --rdo
    """
    from bitcodec import BitCodec

    to_archive = output.suffix == ARCHIVE_SUFFIX
    if table and not to_archive:
        raise click.UsageError(f"--table is for archives: name OUTPUT *{ARCHIVE_SUFFIX}")
    if rdo and table != "context":
        raise click.UsageError("--rdo searches at the prices of a context table: --table context")
    loaded = BitCodec.load(codec, device=device).set_params(compute=compute)
    source, n_rows = open_source(hidden)
    if output == STDIO:
        _encode_to_stdout(loaded, source, n_rows=n_rows)
    elif to_archive:
        encode_archive(
            loaded,
            source,
            n_rows=n_rows,
            output=output,
            table=table or "independent",
            rdo=rdo,
            overwrite=overwrite,
        )
    else:
        encode_file(loaded, source, n_rows=n_rows, output=output, overwrite=overwrite)


def encode_file(
    codec: BitCodec,
    source: HiddenSource,
    *,
    n_rows: int | None,
    output: Path,
    title: str = "encode",
    overwrite: bool = False,
) -> None:
    """Encode a source into a packed file with a progress bar on stderr."""
    from bitcodec.storage import PackedWriter

    writer = PackedWriter(
        output,
        n_bits=codec.n_bits_,
        fingerprint=codec.fingerprint_,
        side_bytes=codec.side_bytes_,
        compute=codec.compute,
        overwrite=overwrite,
    )
    with writer, progress_bar(title, total=n_rows, unit="rows") as advance:
        for packed in codec.encode_batches(source):
            writer.append(packed)
            advance(writer.n_rows)


@click.command()
@codec_argument
@click.argument("codes", type=FOLDER)
@output_option
@click.option("--rows", metavar="START:STOP", help="Only these rows, for example 100:164.")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32")
@compute_option
@device_option
@overwrite_option
def decode(
    codec: Path,
    codes: Path,
    output: Path,
    rows: str | None,
    dtype: str,
    compute: Precision,
    device: str,
    overwrite: bool,
) -> None:
    """Decode packed codes into approximate hidden states.

    CODES is a .npy file or a .zarr archive that `bitcodec encode` wrote; of an archive only the
    rows that are asked for are read. OUTPUT is a .npy file of floats, or - for .npy on stdout.

    \b
    Example: bitcodec decode codec codes.npy -o hidden.npy --rows 0:1000
             bitcodec decode codec codes.zarr -o hidden.npy
    """
    import numpy as np

    from bitcodec import BitCodec
    from bitcodec.files import NpyWriter

    loaded = BitCodec.load(codec, device=device).set_params(compute=compute)
    packed = open_codes(codes, fingerprint=loaded.fingerprint_)
    chosen = range(len(packed))[parse_rows(rows, n_rows=len(packed))]
    wanted = np.dtype(dtype)
    batches = (_decoded(loaded, chunk, wanted) for chunk in _chunks(packed, chosen))
    if output == STDIO:
        write_npy_to_stdout(batches, shape=(len(chosen), loaded.n_dims_), dtype=wanted)
        return
    writer = NpyWriter(output, n_columns=loaded.n_dims_, dtype=wanted, overwrite=overwrite)
    with writer, progress_bar("decode", total=len(chosen), unit="rows") as advance:
        for batch in batches:
            writer.append(batch)
            advance(writer.n_rows)


@click.command("eval")
@codec_argument
@click.argument("hidden", type=FOLDER)
@click.option("--recall", "k", type=int, help="Also recall@K against exact search.")
@click.option(
    "--queries",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    help="Rows used as queries.",
)
@device_option
@json_option
def evaluate(
    codec: Path, hidden: Path, k: int | None, queries: int, device: str, as_json: bool
) -> None:
    """Measure rate and distortion on hidden states, best on rows the fit did not see.

    \b
    Example: bitcodec eval codec held-out.npy --recall 10
    """
    import dataclasses

    from bitcodec import BitCodec
    from bitcodec_cli.measuring import evaluation_table, search_recall

    if k is not None and hidden == STDIO:
        raise click.UsageError("--recall reads its rows twice: give a file instead of -")
    loaded = BitCodec.load(codec, device=device)
    source, _ = open_source(hidden)
    result = dataclasses.asdict(loaded.evaluate(source))
    if k is not None:
        result[f"recall_at_{k}"] = search_recall(loaded, hidden, k=k, n_queries=queries)
    if as_json:
        print_json(result)
    else:
        output_console().print(evaluation_table({str(codec): result}))


def open_source(path: Path) -> tuple[HiddenSource, int | None]:
    """Return a source of hidden states and its number of rows; - is .npy on stdin."""
    from bitcodec.batches import HiddenBatches, NpyStream

    if path == STDIO:
        stream = NpyStream(sys.stdin.buffer)
        return stream, stream.n_rows
    return path, HiddenBatches(path).n_rows


def parse_rows(rows: str | None, *, n_rows: int) -> slice:
    """Turn START:STOP into a slice within `n_rows` rows."""
    if rows is None:
        return slice(0, n_rows)
    start, colon, stop = rows.partition(":")
    try:
        bounds = int(start or 0), int(stop or n_rows)
    except ValueError:
        bounds = -1, -1
    if not colon or not 0 <= bounds[0] <= bounds[1] <= n_rows:
        raise click.BadParameter(f"expected START:STOP within 0:{n_rows}, got {rows!r}")
    return slice(*bounds)


def write_npy_to_stdout(
    batches: Iterator[np.ndarray], *, shape: tuple[int, int], dtype: np.dtype[Any]
) -> None:
    """Write a .npy file whose size is known beforehand to stdout."""
    import numpy as np
    from numpy.lib import format as npy_format

    descr = npy_format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    out = sys.stdout.buffer
    npy_format.write_array_header_1_0(out, header)
    for batch in batches:
        out.write(np.ascontiguousarray(batch).data)
    out.flush()


def _encode_to_stdout(codec: BitCodec, source: HiddenSource, *, n_rows: int | None) -> None:
    import numpy as np

    if n_rows is None:
        raise click.UsageError("the number of rows must be known to write .npy to stdout")
    batches = codec.encode_batches(source)
    write_npy_to_stdout(batches, shape=(n_rows, codec.row_bytes_), dtype=np.dtype(np.uint8))


def _decoded(codec: BitCodec, packed: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    import numpy as np

    from bitcodec.errors import ValueRangeError

    with np.errstate(over="ignore"):
        hidden = codec.decode(packed).astype(dtype, copy=False)
    if not np.isfinite(hidden).all():
        raise ValueRangeError(f"a decoded value does not fit {dtype}: use --dtype float32")
    return hidden


def _chunks(
    packed: PackedRows | PackedArchive, rows: range, size: int = 4096
) -> Iterator[np.ndarray]:
    for start in range(rows.start, rows.stop, size):
        yield packed[start : min(start + size, rows.stop)]
