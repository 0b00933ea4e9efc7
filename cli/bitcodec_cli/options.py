"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(path_type=Path)

codec_argument = click.argument("codec", type=FOLDER)
output_option = click.option(
    "-o", "--output", type=FOLDER, required=True, help="What to write; appears when complete."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what exists.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
device_option = click.option(
    "--device", default="auto", show_default=True, help='"auto" is CUDA where there is one.'
)
compute_option = click.option(
    "--compute",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Precision of the products; bfloat16 is faster and changes a few bits.",
)
