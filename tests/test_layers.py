"""Imports point down: the layer table of the library, held against its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    (
        "errors",
        "compiling",
    ),
    (
        "locks",
        "renaming",
        "threads",
    ),
    (
        "extras",
        "files",
        "config",
        "bits",
        "devices",
        "pickling",
        "row_products",
        "scratch",
        "scoring_kernels",
        "coactivation_kernels",
        "sparse_kernels",
        "json_fields",
        "row_texts",
        "bit_products",
        "triton_kernels",
        "report_rows",
        "best_rows",
        "synthetic",
        "hidden_checks",
        "parallel",
    ),
    (
        "arrow_files",
        "npy_stream",
        "sealed_json",
        "harvest_shards",
        "sparse_products",
    ),
    (
        "covariance",
        "checksums",
        "headers",
        "block_hashes",
    ),
    (
        "hidden_files",
        "packed_rows",
    ),
    (
        "batches",
        "surrogate",
        "statistics",
        "metrics",
        "presets",
        "schedule",
        "replay",
        "refine_kernels",
        "scoring_parts",
        "context_kernels",
        "feature_set_file",
        "thresholds",
        "packed_files",
    ),
    (
        "checkpoints",
        "model",
        "losses",
        "storage",
        "probability",
        "refine",
        "scoring",
        "parameters",
        "epochs",
        "steering",
        "coactivation",
        "groups",
        "passages",
        "feature_sets",
        "report_features",
        "arguments",
    ),
    (
        "normal_equations",
        "linear_maps",
        "objective",
        "descent",
        "similarity",
        "side_rows",
        "tensors",
        "transform",
        "context_table",
        "profile_coder",
        "pairs",
        "products",
        "report",
        "firing_texts",
        "protocol",
    ),
    (
        "coder",
        "steps",
        "context_coder",
        "context_search",
        "context_learning",
        "entropy_tree",
        "pruning",
        "revival",
        "reseeding",
        "imitation",
        "gradients",
        "search_results",
    ),
    (
        "start",
        "tables",
        "ranking",
    ),
    (
        "rescoring",
        "block_coder",
        "evaluation",
        "validation",
        "weighing",
        "row_meter",
        "histograms",
    ),
    ("feature_reports",),
    (
        "range_coding",
        "finishing",
    ),
    (
        "training",
        "reporting",
        "pictures",
    ),
    (
        "fitted",
        "diagnosis",
        "tracking",
    ),
    ("resident",),
    ("reported",),
    ("codec",),
)
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
LIBRARY = sorted(path for path in (ROOT / "bitcodec").glob("*.py") if path.stem != "__init__")
OUTSIDE = sorted([*(ROOT / "cli").rglob("*.py"), *(ROOT / "integrations").rglob("*.py")])
FORBIDDEN = {
    "faiss",
    "transformers",
    "click",
    "rich",
    "zarr",
    "ray",
    "psycopg",
    "jinja2",
    "pyarrow",
}


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bitcodec":
            yield from (alias.name for alias in node.names)


def test_the_table_lists_every_module_of_the_library() -> None:
    assert {path.stem for path in LIBRARY} == set(LAYER_OF)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_a_module_imports_only_from_lower_layers(path: Path) -> None:
    parts = (name.split(".") for name in imported_modules(path))
    used = {part[1] for part in parts if part[0] == "bitcodec" and len(part) > 1}
    upward = {name for name in used & set(LAYER_OF) if LAYER_OF[name] >= LAYER_OF[path.stem]}
    assert not upward


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_imports_no_tool_it_serves(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert not roots & FORBIDDEN
    assert not {root for root in roots if root.startswith("bitcodec_")}


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: "/".join(path.parts[-2:]))
def test_integrations_and_commands_use_public_names_only(path: Path) -> None:
    assert not [name for name in imported_names(path) if name.startswith("_")]


@pytest.mark.parametrize(
    "path", [path for path in OUTSIDE if "cli" not in path.parts], ids=lambda path: path.name
)
def test_an_integration_is_usable_alone(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported_modules(path)}
    foreign = {root for root in roots if root.startswith("bitcodec_")} - {path.parent.name}
    assert not foreign
