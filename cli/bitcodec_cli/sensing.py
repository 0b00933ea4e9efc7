"""sensitivity: what errors of a layer's states cost their model, for fits that weigh them."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitcodec_cli.harvesting import BUILT_IN_TEXT, read_text
from bitcodec_cli.options import FOLDER, device_option, output_option, overwrite_option
from bitcodec_cli.provenance import QueryOrigin, describe_source, query_origin
from bitcodec_cli.splicing import load_model_of, rows_of
from bitcodec_cli.terminal import note, progress_bar

if TYPE_CHECKING:
    import numpy as np

SUFFIX = ".safetensors"
FORMAT_VERSION = 1
TENSOR, METADATA = "sensitivity", "bitcodec_sensitivity"


@click.command()
@click.argument("hidden", type=FOLDER)
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@output_option
@click.option(
    "--max-tokens", type=int, default=20_000, show_default=True, help="Stop after so many."
)
@device_option
@overwrite_option
def sensitivity(
    hidden: Path,
    texts: tuple[str, ...],
    output: Path,
    max_tokens: int,
    device: str,
    overwrite: bool,
) -> None:
    """Measure what errors of hidden states cost their model, for `bitcodec fit --sensitivity`.

    HIDDEN is a harvest, or one layer's folder of it: model, layer and choice of rows are the
    harvest's. TEXT is as in `bitcodec splice`; best the text of the harvest. OUTPUT is a
    .safetensors file of the layer's Fisher matrix.

    \b
    Example: bitcodec sensitivity hidden notes.txt -o minded.safetensors
             bitcodec fit hidden --sensitivity minded.safetensors -o codec
    """
    from bitcodec.files import check_target

    if output.suffix != SUFFIX:
        raise click.UsageError(f"OUTPUT is a {SUFFIX} file, got {output}: name it so")
    check_target(output, overwrite=overwrite)
    origin = harvest_origin(hidden)
    documents = [read_text(text) for text in texts or (BUILT_IN_TEXT,)]
    matrix, n_tokens = _measured(documents, origin, max_tokens=max_tokens, device=device)
    said = {"model": origin.model, "layer": origin.layer, "n_tokens": n_tokens}
    write_sensitivity(output, matrix, said, overwrite=overwrite)
    note(
        f"wrote {output}: layer {origin.layer} of {origin.model['name']}, "
        f"{len(matrix)} dimensions, on {n_tokens:,} tokens"
    )


def _measured(
    documents: list[Any], origin: QueryOrigin, *, max_tokens: int, device: str
) -> tuple[np.ndarray, int]:
    """Return the Fisher matrix, and the tokens it is the mean over."""
    import bitcodec_transformers

    model = load_model_of(origin, name=None, dtype=None, device=device)
    n_tokens = 0
    with progress_bar("sensitivity", total=max_tokens, unit="tokens") as advance:

        def show(record: bitcodec_transformers.TokenProgress) -> None:
            nonlocal n_tokens
            n_tokens = record.n_tokens
            advance(n_tokens)

        matrix = bitcodec_transformers.sensitivity(
            itertools.chain.from_iterable(documents),
            model=model,
            layer=origin.layer,
            max_tokens=max_tokens,
            progress=show,
            **rows_of(origin, model=model, layer=origin.layer, context_length=None),
        )
    return matrix, n_tokens


def harvest_origin(hidden: Path) -> QueryOrigin:
    """Return model, layer and choice of rows of a harvest.

    Raises:
        click.UsageError: there is no harvest, or it has several layers and none is chosen.
    """
    told = describe_source(hidden)
    if "model" not in told:
        raise click.UsageError(
            f"{hidden} is no harvest, which would tell model and layer: pass the folder that "
            "`bitcodec harvest` wrote"
        )
    if told["layer"] is None:
        raise click.UsageError(f"{hidden} has several layers: pass the folder of one of them")
    return query_origin(told)


def write_sensitivity(
    path: Path, matrix: np.ndarray, said: dict[str, Any], *, overwrite: bool
) -> None:
    """Write a sensitivity and where it is from.

    Args:
        path: of the .safetensors file.
        matrix: (d, d) float64.
        said: "model", as a harvest tells it, "layer" and "n_tokens".
        overwrite: replace an existing file.

    Raises:
        FileError: the file exists or cannot be written.
    """
    from safetensors.numpy import save_file

    from bitcodec.files import atomic_path
    from bitcodec.sealed_json import sealed

    header = sealed({"format_version": FORMAT_VERSION, "sha256": _sha256_of(matrix), **said})
    with atomic_path(path, overwrite=overwrite) as temporary:
        save_file({TENSOR: matrix}, temporary, metadata={METADATA: json.dumps(header)})


def read_sensitivity(path: Path, provenance: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a sensitivity that is to weigh errors of hidden states.

    Args:
        path: of a file that `bitcodec sensitivity` wrote.
        provenance: of the hidden states.

    Returns:
        (d, d) float64, and where it is from.

    Raises:
        FileError: there is no such file.
        FormatError: the file is damaged, foreign or of a newer format.
        MismatchError: the hidden states are of another model or layer.
    """
    from bitcodec.errors import MismatchError

    matrix, said = open_sensitivity(path)
    model = provenance.get("model")
    known = (said["model"].get("digest"), said["layer"])
    if isinstance(model, dict) and known != (model["digest"], provenance["layer"]):
        raise MismatchError(
            f"{path} is of layer {said['layer']} of {said['model'].get('name')}, the hidden states "
            f"are of layer {provenance['layer']} of {model['name']}: measure it on this harvest"
        )
    return matrix, said


def open_sensitivity(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read and check a sensitivity, whatever it is of.

    Returns:
        (d, d) float64, and model, layer and tokens.

    Raises:
        FileError: there is no such file.
        FormatError: the file is damaged, foreign or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    from bitcodec.errors import FileError, FormatError
    from bitcodec.files import one_line
    from bitcodec.sealed_json import unsealed

    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})[METADATA])
            matrix: np.ndarray = file.get_tensor(TENSOR)
        version = header["format_version"]
    except FileNotFoundError as error:
        raise FileError(f"there is no file {path}") from error
    except KeyError as error:
        raise FormatError(
            f"{path} is no file of `bitcodec sensitivity`, but other tensors"
        ) from error
    except (SafetensorError, OSError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(
            f"{path} is no file of `bitcodec sensitivity`: {one_line(error)}"
        ) from error
    if type(version) is not int or version != FORMAT_VERSION:
        raise FormatError(
            f"{path} is of format {version!r:.40}, this version reads {FORMAT_VERSION}: upgrade "
            "bitcodec"
        )
    said = unsealed(header, where=path)
    told = {name: said.get(name) for name in ("model", "layer", "n_tokens")}
    if [type(value) for value in told.values()] != [dict, int, int]:
        raise FormatError(f"{path} does not say of what model, layer and tokens it is")
    if said.get("sha256") != _sha256_of(matrix):
        raise FormatError(f"{path} is damaged: its matrix is not the one that was written")
    return matrix, told


def _sha256_of(matrix: np.ndarray) -> str:
    import numpy as np

    given = np.ascontiguousarray(matrix)
    little = given.astype(given.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(
        f"{little.dtype.str} {little.shape}\n".encode() + little.tobytes()
    ).hexdigest()
