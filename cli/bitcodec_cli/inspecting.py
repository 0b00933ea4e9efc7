"""info: what a file or folder says about itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitcodec_cli.archives import describe_archive, is_archive
from bitcodec_cli.options import FOLDER, json_option
from bitcodec_cli.terminal import print_json

if TYPE_CHECKING:
    from bitcodec_naming.names import Names


@click.command()
@click.argument("path", type=FOLDER)
@json_option
def info(path: Path, as_json: bool) -> None:
    """Show what a file or folder of bitcodec says of itself.

    That is a codec, a checkpoint, packed codes, an archive, an index, a harvest, a report,
    names or feature sets.

    \b
    Example: bitcodec info codec
             bitcodec info codes.zarr
    """
    content = describe(path)
    if as_json:
        print_json(content)
        return
    for name, value in _flatten(content):
        click.echo(f"{name:<36} {value}")


def describe(path: Path) -> dict[str, Any]:
    """Read the header of any file or folder that bitcodec writes.

    Raises:
        FileError: there is nothing of the kind.
        FormatError: the header is damaged, foreign or newer.
    """
    from bitcodec.errors import FileError
    from bitcodec.files import read_json
    from bitcodec.storage import HEADER_NAME, open_packed, read_codec_header

    if path.is_file() and (found := _describe_file(path)) is not None:
        return found
    if path.suffix == ".npy":
        header = dataclasses.asdict(open_packed(path, verify=False)[0])
        del header["block_sha256"]  # of any length
        return {"kind": "packed codes"} | header
    if is_archive(path):
        return {"kind": "archive"} | describe_archive(path)
    if (path / HEADER_NAME).is_file():
        return {"kind": "codec"} | dataclasses.asdict(read_codec_header(path))
    for kind, name in (("harvest", "harvest.json"), ("index", "index.json")):
        if (path / name).is_file():
            return {"kind": kind} | read_json(path / name)
    if not path.exists():
        raise FileError(f"there is no {path}")
    raise FileError(
        f"{path} is no codec, checkpoint, packed codes, index or harvest, no report, names or "
        "feature sets, nor an archive of bitcodec"
    )


def _describe_file(path: Path) -> dict[str, Any] | None:
    """Return what a checkpoint, report, names or feature sets say of themselves, else None."""
    from bitcodec.feature_set_file import is_feature_sets, map_file
    from bitcodec.files import read_json

    if is_feature_sets(path):
        return {"kind": "feature sets"} | dataclasses.asdict(map_file(path).header)
    if path.suffix not in (".json", ".npy"):
        from bitcodec.checkpoints import is_checkpoint, read_checkpoint_header

        if is_checkpoint(path):
            return {"kind": "checkpoint"} | dataclasses.asdict(read_checkpoint_header(path))
    if path.suffix == ".json":
        from bitcodec.report import Report
        from bitcodec_naming.names import SCHEMA, Names

        if read_json(path).get("schema") == SCHEMA:
            return _describe_names(Names.load(path))
        report = Report.load(path)
        return {
            "kind": "report",
            "codec": dataclasses.asdict(report.codec),
            "settings": dataclasses.asdict(report.settings),
            "evaluation": dataclasses.asdict(report.evaluation),
            "entropy": dataclasses.asdict(report.entropy),
        }
    return None


def _describe_names(names: Names) -> dict[str, Any]:
    return {
        "kind": "names",
        "judge": names.judge,
        "fingerprint": names.fingerprint,
        "settings": dataclasses.asdict(names.settings),
        "n_rows": names.n_rows,
        "n_features": names.n_features,
        "n_named": len(names.names),
        "mean_score": names.mean_score()[0],
    }


def _flatten(content: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines = []
    for name, value in content.items():
        if isinstance(value, dict) and value:
            lines += _flatten(value, f"{prefix}{name}.")
        else:
            lines.append((prefix + name, str(value)))
    return lines
