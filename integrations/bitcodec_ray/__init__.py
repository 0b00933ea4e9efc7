"""Encode, decode and count on Ray Data, with codes in Parquet or in archives.

>>> from bitcodec_ray import Workers
>>> Workers(count=4, num_cpus=2)
Workers(count=4, num_cpus=2, num_gpus=0, batch_rows=4096)

Two ways in. `encode_dataset`, `decode_dataset` and `count_dataset` are steps between whatever else
a pipeline of Ray does. `encode_rows` takes files to an archive or a folder of Parquet: in order,
continuing where a stopped run was, with no row travelling through the cluster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bitcodec.extras import import_extra
from bitcodec_ray.workers import Workers

if TYPE_CHECKING:
    from bitcodec_ray.datasets import (
        count_dataset,
        decode_dataset,
        encode_dataset,
        packed_batches,
        read_codes,
        read_rows,
    )
    from bitcodec_ray.parquet import PackedParquet, open_packed_parquet
    from bitcodec_ray.preflight import require_package
    from bitcodec_ray.protocol import Codes, Output, Rows
    from bitcodec_ray.shards import encode_rows
    from bitcodec_ray.sources import open_rows

_LAZY = {
    "Codes": "protocol",
    "Output": "protocol",
    "PackedParquet": "parquet",
    "Rows": "protocol",
    "count_dataset": "datasets",
    "decode_dataset": "datasets",
    "encode_dataset": "datasets",
    "encode_rows": "shards",
    "open_packed_parquet": "parquet",
    "open_rows": "sources",
    "packed_batches": "datasets",
    "read_codes": "datasets",
    "read_rows": "datasets",
    "require_package": "preflight",
}
__all__ = [
    "Codes",
    "Output",
    "PackedParquet",
    "Rows",
    "Workers",
    "count_dataset",
    "decode_dataset",
    "encode_dataset",
    "encode_rows",
    "open_packed_parquet",
    "open_rows",
    "packed_batches",
    "read_codes",
    "read_rows",
    "require_package",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: ray takes seconds."""
    if name not in _LAZY:
        raise AttributeError(f"module 'bitcodec_ray' has no attribute {name!r}")
    import_extra("ray", extra="ray")
    return getattr(importlib.import_module(f"bitcodec_ray.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
