"""What a codec has learned, as plain data: the dataclasses of a report, and its JSON.

`BitCodec.report` measures one; tables, pictures and the page show it. The JSON is what
`Report.to_dict` gives: the fields below by name, under a schema's name and version. Floats have six
significant digits there, and those that are not finite are null.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Self

from bitcodec.errors import ConfigError, FormatError
from bitcodec.files import PathLike, atomic_path, read_json
from bitcodec.json_fields import from_fields, null_means, to_fields
from bitcodec.metrics import Evaluation
from bitcodec.report_features import (
    Coactive,
    Context,
    CounterExample,
    Feature,
    Flag,
    Nearest,
    Pair,
    Reason,
    TokenCount,
)
from bitcodec.report_rows import Passage, RowPlace, Rows, place_of
from bitcodec.sealed_json import sealed, unsealed

__all__ = [
    "Coactive",
    "CodecFacts",
    "Context",
    "CounterExample",
    "Distributions",
    "Entropy",
    "Feature",
    "Flag",
    "Histogram",
    "Nearest",
    "Pair",
    "Passage",
    "PositionGroup",
    "Reason",
    "Report",
    "ReportSettings",
    "RowPlace",
    "Rows",
    "SurprisingBit",
    "TokenCount",
    "WorstRow",
]

SCHEMA, VERSION = "bitcodec.report", 2
"""Version 2 added the seal of the file; version 1 is read without one."""
_MAX_BYTES = 2**30


@dataclass(frozen=True)
class ReportSettings:
    """How a report was measured."""

    n_contexts: int = 5
    """Contexts of each kind that a feature is shown with."""
    width: int = 60
    """Characters of text before and after a context's token."""
    n_neighbours: int = 5
    """Neighbours of each kind that a feature is shown with."""
    min_count: int = 10
    """Rows in which both features of a pair must be on to be called co-active."""
    dense_activity: float = 0.1
    """Activity from which on a feature is flagged dense."""
    duplicate_similarity: float = 0.95
    """Cosine of decoder rows, or phi, from which on a feature is flagged a duplicate."""
    n_worst: int = 20
    """Rows with the worst error that are shown."""
    n_pairs: int = 100
    """Strongest pairs overall that are shown."""
    min_token_count: int = 20
    """Tokens and documents of fewer rows count as one group in `token_share` and
    `document_share`: each group takes memory."""
    seed: int = 0
    """Of the random sample of contexts."""
    measure_archive: bool = False
    """Also measure the bits that rows take in an archive with a context table; the table is learned
    on the first 131,072 rows, which takes minutes for thousands of features."""

    def __post_init__(self) -> None:
        for name in ("n_contexts", "width", "n_neighbours", "n_worst", "n_pairs"):
            _check_at_least(self, name, 0)
        for name in ("min_count", "min_token_count"):
            _check_at_least(self, name, 1)
        for name in ("dense_activity", "duplicate_similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} must be above 0 and at most 1, got {getattr(self, name)}"
                )


@dataclass(frozen=True)
class CodecFacts:
    """The codec of a report."""

    fingerprint: str
    """SHA-256 of the codec's tensors."""
    n_dims: int
    """Width d of the hidden states."""
    n_bits: int
    """Bits h of a code, the number of features."""
    side_bytes: int
    """Bytes beside the bits of a row."""
    n_rows_of_fit: int
    """Rows the codec was fitted on."""
    provenance: dict[str, Any]
    """Where the rows of the fit came from."""


@dataclass(frozen=True)
class Entropy:
    """How many bits a row's code holds, bounded from above; all plug-in estimates, of these rows.

    The joint entropy is at most `tree_bits`, which is at most `sum_bits`.
    """

    sum_bits: float
    """Sum over the features of H2(p): the joint entropy, were the features independent."""
    sum_bits_corrected: float
    """The same with Miller and Madow's correction for few rows."""
    sum_standard_error: float
    """Of `sum_bits`, taking rows as independent: the deviation of rows' prices over sqrt(n)."""
    tree_bits: float
    """`sum_bits` less the mutual informations along a Chow-Liu tree (1968)."""
    n_tree_edges: int
    """Pairs in that tree."""
    coder_bits: float
    """Bits a row costs an entropy coder that knows the activities of the codec's fit, not these
    rows'."""
    archive_bits: float | None
    """Bits a row took in the bytes of the range coder with a context table, the table included;
    None where that was not measured. May be below the joint entropy of single rows: the table
    knows of the row before."""


@dataclass(frozen=True)
class Histogram:
    """Counts between edges."""

    edges: tuple[float, ...]
    """k + 1 ascending edges; a value on an inner edge counts to the right."""
    counts: tuple[int, ...]
    """k counts."""
    n_outside: int
    """Values that lie between no edges, for example the logarithm of 0."""


@dataclass(frozen=True)
class Distributions:
    """How features and rows are spread."""

    log10_activity: Histogram
    """Features by log10 of their activity; those that are never on lie outside."""
    firing_price_bits: Histogram
    """Firings (a feature on in a row) by what each costs to store, -log2 p of the feature."""
    burstiness: Histogram
    """Cells (a feature in a row, on or off) by burstiness log2 |b - p|; minus infinity, of a
    feature that never changes, lies outside."""
    row_price_bits: Histogram
    """Rows by their price in bits, the sum of -log2 P(b) over the features."""
    row_n_on: Histogram
    """Rows by the number of features that are on."""
    row_log10_error: Histogram
    """Rows by log10 of their error, as `WorstRow.error`; exact copies lie outside."""


@dataclass(frozen=True)
class PositionGroup:
    """Rows whose tokens lie about as deep in the window that the model read."""

    first: int
    """First position, 0 or a power of two."""
    last: int
    """Last position, one below the next power of two."""
    n_rows: int
    """Rows at these positions."""
    sum_bits: float
    """Sum of the features' entropies over these rows, with Miller and Madow's correction."""
    error: float
    """Mean of the rows' errors."""


@dataclass(frozen=True)
class SurprisingBit:
    """A feature's part in the price of a row."""

    feature: int
    """Its number."""
    on: bool
    """Whether it is on in the row."""
    price_bits: float
    """-log2 P(b)."""
    burstiness: float
    """log2 |b - p|."""


@dataclass(frozen=True)
class WorstRow:
    """A row that is reconstructed badly."""

    row: int
    """Its number, a key of `Report.row`."""
    error: float
    """Mean over the dimensions of the squared error in units of the codec's scales."""
    cosine: float
    """Of the row and its decoded copy."""
    surprising: tuple[SurprisingBit, ...]
    """Its most bursty features."""


@dataclass(frozen=True, repr=False)
class Report:
    """What a codec does to given rows, and what its features mean."""

    codec: CodecFacts
    """The codec."""
    settings: ReportSettings
    """How this was measured."""
    evaluation: Evaluation
    """Rate and distortion."""
    fvu_per_dimension: tuple[float, ...] = field(metadata=null_means(math.nan))
    """Fraction of variance unexplained of every dimension; NaN (null in JSON) where it does not
    vary."""
    entropy: Entropy
    """Bounds of the code's entropy."""
    distributions: Distributions
    """How features and rows are spread."""
    positions: tuple[PositionGroup, ...]
    """The rows by position, which is what early tokens differ by; empty without text."""
    features: tuple[Feature, ...]
    """All h of them, in order."""
    pairs: tuple[Pair, ...]
    """Strongest pairs overall by mutual information."""
    worst_rows: tuple[WorstRow, ...]
    """Rows of largest error, largest first."""
    rows: Rows
    """Every row that is shown."""
    passages: tuple[Passage, ...]
    """The texts that the rows lie in; empty without text."""

    def __repr__(self) -> str:
        """Tell what was measured: the whole is long."""
        return f"Report({len(self.features)} features on {self.evaluation.n_rows} rows)"

    def row(self, number: int, *, width: int | None = None) -> RowPlace:
        """Give a row that the report shows, with its text.

        Args:
            number: of the row, from any field `row` or `on`.
            width: characters of text before and after; None means the report's.

        Raises:
            ValueRangeError: the report does not show this row.
        """
        return place_of(self.rows, self.passages, number, width=width or self.settings.width)

    def to_dict(self) -> dict[str, Any]:
        """Return what the JSON holds."""
        return {"schema": SCHEMA, "version": VERSION, **to_fields(self)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Build a report from what `to_dict` gave.

        Raises:
            FormatError: it is no report, of a newer version, or damaged.
        """
        if content.get("schema") != SCHEMA:
            raise FormatError(
                f"expected a report of schema {SCHEMA}, got {content.get('schema')!r}"
            )
        if content.get("version") not in (1, VERSION):
            raise FormatError(
                f"this bitcodec reads reports up to version {VERSION}, got "
                f"{content.get('version')!r:.40}: measure it again or use a newer bitcodec"
            )
        fields = {
            name: value for name, value in content.items() if name not in ("schema", "version")
        }
        return from_fields(cls, fields)

    def save(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write the report as JSON.

        Raises:
            FileError: `path` exists and `overwrite` is false, or cannot be written.
        """
        content = json.dumps(
            sealed(self.to_dict()), separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: PathLike) -> Self:
        """Read a report that `save` wrote.

        Raises:
            FileError: there is no such file.
            FormatError: it is no report, of a newer version, or damaged.
        """
        try:
            content = read_json(path, max_bytes=_MAX_BYTES)
            ours = content.get("schema") == SCHEMA and content.get("version") == VERSION
            return cls.from_dict(unsealed(content, where=path) if ours else content)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from error


def _check_at_least(settings: ReportSettings, name: str, least: int) -> None:
    if getattr(settings, name) < least:
        raise ConfigError(f"{name} must be at least {least}, got {getattr(settings, name)}")
