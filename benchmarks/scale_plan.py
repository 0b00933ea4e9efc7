"""A terabyte of activations and a billion vectors: machines, hours and money, from measured rates.

Every assumption is an option; the tables in docs/scale.md are what this prints without any.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, fields

from benchmarks.results_file import RESULTS
from bitcodec.files import read_json


@dataclass(frozen=True)
class Assumptions:
    """What a reader may want to change."""

    activation_bytes: float = 1e12
    """bytes of activations, float16"""
    n_dims: int = 4096
    """dimensions of an activation"""
    bits_per_dim: float = 4.0
    """bits of a code for each dimension, before entropy coding"""
    stored_share: float = 0.12
    """bytes of an entropy-coded row as a share of its packed bytes"""
    n_vectors: float = 1e9
    """vectors to search"""
    vector_dims: int = 384
    """dimensions of such a vector"""
    vector_bits: int = 400
    """bits of its code"""
    vector_side_bytes: int = 2
    """bytes beside them"""
    cores: int = 32
    """cores of a machine"""
    memory_gb: float = 128.0
    """gigabytes of memory of a machine"""
    machines: int = 10
    """machines that encode at the same time"""
    engine: float = 1.2
    """time with an engine, reading and writing, over that of encoding alone"""
    core_hour: float = 0.05
    """dollars a core and hour, list price"""
    store_month: float = 0.023
    """dollars a gigabyte and month in an object store, list price"""
    read_gb_per_second: float = 1.0
    """gigabytes a second that a machine reads from there"""


@dataclass(frozen=True)
class Rates:
    """What was measured, of one core."""

    rows_per_second: float
    """Rows that the linear pass encodes."""
    n_dims: int
    """Their dimensions."""
    n_bits: int
    """Bits of their codes."""
    search_ratio: float
    """Time of encoding with search ("fast") over that of the linear pass."""
    scanned_bytes: float
    """Bytes of codes that a scan of all, exact scores and queries in batches, reads a second."""


def measured_rates() -> Rates:
    """Read the rates from the results of the benchmarks."""
    search = read_json(RESULTS / "search_speed.json")["results"]["batches"]["32"]["methods"]
    refine = read_json(RESULTS / "refine_speed.json")["results"]
    flat = search["AsymmetricIndex Flat"]
    return Rates(
        rows_per_second=refine["modes"]["fast"]["linear_rows_per_second"],
        n_dims=refine["n_dims"],
        n_bits=refine["n_bits"],
        search_ratio=refine["modes"]["fast"]["ratio_median"],
        scanned_bytes=flat["codes_per_second"] * flat["scanned_bytes_per_code"],
    )


def archive_rows(told: Assumptions, rates: Rates) -> list[tuple[str, str]]:
    """Return the lines about activations that become an archive."""
    n_rows = told.activation_bytes / (2 * told.n_dims)
    packed = n_rows * told.n_dims * told.bits_per_dim / 8
    stored = packed * told.stored_share
    # Products take dims times bits; what was measured also has what every row costs alike.
    growth = told.n_dims**2 * told.bits_per_dim / (rates.n_dims * rates.n_bits)
    linear = told.engine * n_rows / rates.rows_per_second * growth / 3600
    searched = linear * rates.search_ratio
    reading = told.activation_bytes / 1e9 / told.read_gb_per_second / told.machines / 3600
    cores = told.cores * told.machines
    return [
        ("rows", f"{n_rows / 1e6:,.0f} million of {told.n_dims} dimensions"),
        ("packed, and stored", f"{packed / 1e9:,.0f} GB, {stored / 1e9:,.0f} GB"),
        ("core hours, linear pass", f"{linear:,.0f}: {told.core_hour * linear:,.0f} dollars"),
        ("core hours, with search", f"{searched:,.0f}: {told.core_hour * searched:,.0f} dollars"),
        (
            f"hours on {told.machines} machines of {told.cores} cores",
            f"{linear / cores:,.1f}, with search {searched / cores:,.1f}; "
            f"reading alone {reading:,.2f}",
        ),
        (
            "a month in an object store",
            f"{told.store_month * stored / 1e9:,.2f} dollars; the activations "
            f"{told.store_month * told.activation_bytes / 1e9:,.2f}",
        ),
    ]


def search_rows(told: Assumptions, rates: Rates) -> list[tuple[str, str]]:
    """Return the lines about vectors that are searched."""
    row_bytes = -(-told.vector_bits // 8) + told.vector_side_bytes
    held = told.n_vectors * (row_bytes + 12) / 1e9  # and eight bytes of an id, four of a row's term
    machines = max(1, -(-held // (0.8 * told.memory_gb)))
    growth = told.vector_dims * told.vector_bits / (rates.n_dims * rates.n_bits)
    encoding = told.engine * told.n_vectors / rates.rows_per_second * growth / 3600
    scan = told.n_vectors * row_bytes / rates.scanned_bytes / (machines * told.cores)
    hourly = machines * told.cores * told.core_hour
    return [
        ("codes", f"{row_bytes} bytes each, {told.n_vectors * row_bytes / 1e9:,.0f} GB"),
        ("core hours to encode, with search", f"{encoding * rates.search_ratio:,.0f}"),
        ("in memory with ids", f"{held:,.0f} GB: {machines:,.0f} machines"),
        ("a query against all, in batches", f"{scan:,.2f} seconds on all their cores"),
        ("an hour of these machines", f"{hourly:,.2f} dollars"),
    ]


def tables(told: Assumptions, rates: Rates) -> str:
    """Return both tables as Markdown."""
    first = _table(f"{told.activation_bytes / 1e12:g} TB of activations", archive_rows(told, rates))
    second = _table(f"{told.n_vectors / 1e9:g} billion vectors", search_rows(told, rates))
    return f"{first}\n\n{second}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Assumptions):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default)
    print(tables(Assumptions(**vars(parser.parse_args())), measured_rates()))


def _table(title: str, lines: Iterable[tuple[str, str]]) -> str:
    head = [f"| {title} | |", "|---|---|"]
    return "\n".join([*head, *(f"| {name} | {value} |" for name, value in lines)])


if __name__ == "__main__":
    main()
