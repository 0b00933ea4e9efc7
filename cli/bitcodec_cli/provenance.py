"""Where hidden states came from, as their harvest tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

MANIFEST = "harvest.json"


def find_harvest(source: Path) -> Path | None:
    """Return the harvest folder that a path lies in or is, None if there is none."""
    for folder in (source, *source.parents[:2]):
        if (folder / MANIFEST).is_file():
            return folder
    return None


def describe_source(source: Path) -> dict[str, Any]:
    """Return model, layer and row policy of hidden states, as far as their harvest tells."""
    folder = find_harvest(source)
    if folder is None:
        return {"source": source.name}
    from bitcodec_transformers import read_harvest

    summary = read_harvest(folder)
    settings = summary.settings.to_json()
    layers = settings.pop("layers")
    layer = next((n for n in layers if summary.layer_folder(n) in (source, source.parent)), None)
    return {
        "source": source.name,
        "model": summary.model,
        "layer": layers[0] if layer is None and len(layers) == 1 else layer,
        "harvest": settings,
    }


def query_model(provenance: dict[str, Any]) -> tuple[str, int]:
    """Return the model's name and the layer that a codec was fitted on.

    Raises:
        click.UsageError: the codec does not know them.
    """
    model, layer = provenance.get("model"), provenance.get("layer")
    if not isinstance(model, dict) or not isinstance(layer, int):
        raise click.UsageError(
            "the codec does not know its model and layer: fit it on a harvest, or search with "
            "a .npy file of hidden states"
        )
    return str(model["name"]), layer
