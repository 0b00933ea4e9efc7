"""Archives of packed codes in Zarr, as encode, decode and info use them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bitcodec_cli.terminal import Advance, progress_bar

if TYPE_CHECKING:
    import numpy as np

    from bitcodec import BitCodec
    from bitcodec.batches import HiddenSource
    from bitcodec.packed_rows import PackedRows
    from bitcodec.tables import Table
    from bitcodec_zarr import PackedArchive

TableKind = Literal["independent", "profiles", "context"]
ARCHIVE_SUFFIX = ".zarr"
LEARNING_ROWS = {"profiles": 2**16, "context": 2**17}
"""Codes at the start of a source that a table is learned on, at most."""
N_PROFILES = LEAST_ROWS = 32
"""Profiles of a learned table, and the fewest rows that any table is learned on."""


def is_archive(path: Path) -> bool:
    """Tell by the name, or by what is in the folder, that a path is meant for an archive."""
    return path.suffix == ARCHIVE_SUFFIX or (path / "zarr.json").is_file()


def encode_archive(
    codec: BitCodec,
    source: HiddenSource,
    *,
    n_rows: int | None,
    output: Path,
    table: TableKind = "independent",
    rdo: bool = False,
    overwrite: bool = False,
) -> None:
    """Encode a source into an archive with a progress bar on stderr.

    Args:
        codec: the fitted codec.
        source: hidden states.
        n_rows: their number, None where unknown.
        output: the archive's folder, which appears when it is complete.
        table: one probability a bit from the codec's own statistics; or profiles, or what a bit's
            context tells, learned on the first codes.
        rdo: rate-distortion optimisation: encode the source a second time, each code searched at
            what its bits cost under the context table.
        overwrite: replace an existing archive.

    Raises:
        ConfigError: there are too few rows to learn a table from, or a source that can be read
            only once is to be read twice.
        FileError: `output` exists and `overwrite` is false or is no archive, or cannot be written.
    """
    from bitcodec.batches import HiddenBatches
    from bitcodec.context_table import ContextTable
    from bitcodec.errors import ConfigError
    from bitcodec.files import atomic_path
    from bitcodec_zarr import PackedArchive

    if rdo and not HiddenBatches(source).rereadable:
        raise ConfigError("--rdo reads the hidden states twice, got a stream: give a file")
    if rdo and (codec.refine == "none" or codec.entropy_weight == 0):
        raise ConfigError(
            "--rdo is for codecs that search and give bits a price, as those of preset archive do; "
            f"this one has refine={codec.refine!r} and entropy_weight={codec.entropy_weight:g}"
        )
    if overwrite:
        _require_replaceable(output)
    with (
        atomic_path(output, overwrite=overwrite) as temporary,
        progress_bar("encode", total=n_rows, unit="rows") as advance,
    ):
        temporary.mkdir()
        batches = _counted(codec.encode_batches(source), advance)
        learned = None
        if table != "independent":
            learned, batches = _learn(table, batches, advance, n_bits=codec.n_bits_)
        if isinstance(learned, ContextTable) and rdo:
            batches = _counted(codec.encode_batches(source, context=learned), advance)
        PackedArchive.create(temporary, codec, table=learned).append(batches)


def open_codes(path: Path, *, fingerprint: str) -> PackedRows | PackedArchive:
    """Open packed codes to be read by slices, from an archive or a .npy file.

    Raises:
        FileError: there are none, or they cannot be read.
        FormatError: they are damaged, foreign or of a newer format.
        MismatchError: a codec of another fingerprint made them.
    """
    if not is_archive(path):
        from bitcodec.storage import open_packed

        return open_packed(path, fingerprint=fingerprint)[1]
    from bitcodec_zarr import open_archive

    archive = open_archive(path)
    archive.require_codec(fingerprint)
    return archive


def describe_archive(path: Path) -> dict[str, Any]:
    """Return an archive's header and what it stores, all side data counted.

    Raises:
        FileError: there is no archive, or it cannot be read.
        FormatError: what is there is no archive, damaged or of a newer format.
    """
    from bitcodec_zarr import open_archive

    archive = open_archive(path)
    size = archive.bytes_stored
    stored = {
        "row_bytes": archive.row_bytes,
        "table": archive.table.kind,
        "table_bytes": len(archive.table.to_bytes()),
        "bytes_stored": size,
        "bits_per_vector": 8 * size / len(archive) if len(archive) else None,
    }
    return dataclasses.asdict(archive.header) | stored


def _require_replaceable(output: Path) -> None:
    from bitcodec.errors import BitcodecError, FileError
    from bitcodec_zarr import open_archive

    if not output.is_dir():
        return
    try:
        open_archive(output)
    except BitcodecError as error:
        raise FileError(
            f"{output} is not an archive and will not be replaced: choose another"
        ) from error


def _counted(batches: Iterator[np.ndarray], advance: Advance) -> Iterator[np.ndarray]:
    n_rows = 0
    for packed in batches:
        n_rows += len(packed)
        advance(n_rows)
        yield packed


def _learn(
    kind: Literal["profiles", "context"],
    batches: Iterator[np.ndarray],
    advance: Advance,
    *,
    n_bits: int,
) -> tuple[Table, Iterator[np.ndarray]]:
    """Learn a table on the first rows' bits, and return it with all rows, the first ones too."""
    import numpy as np

    from bitcodec.bits import row_bytes
    from bitcodec.errors import ConfigError
    from bitcodec.range_coding import ProbabilityTable, learn_context

    first: list[np.ndarray] = []
    n_rows = 0
    while n_rows < LEARNING_ROWS[kind] and (packed := next(batches, None)) is not None:
        first.append(packed)
        n_rows += len(packed)
    if n_rows < LEAST_ROWS:
        raise ConfigError(
            f"a table is learned on at least {LEAST_ROWS} rows, got {n_rows}: use "
            "--table independent"
        )
    known = np.concatenate(first)[: LEARNING_ROWS[kind], : row_bytes(n_bits)]
    advance(n_rows, f"learning a table on {len(known):,} codes")
    if kind == "profiles":
        table: Table = ProbabilityTable.learn(known, n_bits=n_bits, n_profiles=N_PROFILES)
    else:
        remark = f"learning a table on {len(known):,} codes, step"
        table = learn_context(
            known, n_bits=n_bits, on_step=lambda step: advance(n_rows, f"{remark} {step}")
        )
    return table, itertools.chain(first, batches)
