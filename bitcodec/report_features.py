"""What a report says of each feature, as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from bitcodec.json_fields import null_means

Flag = Literal["dead", "always_on", "dense", "duplicate"]
Reason = Literal["same_token", "nearest"]


@dataclass(frozen=True)
class Nearest:
    """Another feature whose decoder row points alike."""

    feature: int
    """Its number."""
    cosine: float
    """Of the two decoder rows in units of the codec's scales."""


@dataclass(frozen=True)
class Coactive:
    """Another feature that is on in the same rows."""

    feature: int
    """Its number."""
    phi: float
    """The correlation of the two bits."""
    n_both: int
    """Rows in which both are on."""


@dataclass(frozen=True)
class Pair:
    """Two features that depend on each other."""

    left: int
    """The feature of the smaller number."""
    right: int
    """The other."""
    n_both: int
    """Rows in which both are on."""
    phi: float
    """The correlation of the two bits, in [-1, 1]."""
    information_bits: float
    """Their mutual information."""


@dataclass(frozen=True)
class TokenCount:
    """A token a feature is on at."""

    token_id: int
    """Of the tokenizer."""
    token: str
    """Its text at the first of these rows."""
    n_on: int
    """Rows of this token in which the feature is on."""
    n_rows: int
    """Rows of this token."""


@dataclass(frozen=True)
class Context:
    """A row shown for a feature."""

    row: int
    """Number of the row, a key of `Report.row`."""
    margin: float | None
    """By how much the row's squared error, in units of the codec's scales, would rise if the
    feature's bit were flipped. Of a firing: what the feature earns there. None where it was not
    measured: of counter-examples of the same token."""
    on: tuple[int, ...]
    """The rows of the text shown around, this one included, in which the feature is on."""


@dataclass(frozen=True)
class CounterExample(Context):
    """A row that the feature might be on in and is not."""

    reason: Reason
    """"same_token": its token is the one the feature is on at most often; a random one of those.
    "nearest": of all rows where it is off, turning it on would cost least."""


@dataclass(frozen=True)
class Feature:
    """One bit of the code, as these rows show it."""

    feature: int
    """Its number, from 0."""
    n_on: int
    """Rows in which it is on."""
    activity: float
    """p, the share of rows in which it is on."""
    activity_standard_error: float
    """sqrt(p (1 - p) / n), taking rows as independent."""
    activity_clustered_error: float | None
    """The same taking documents as independent, not rows: rows of one text are alike, and this is
    the error to trust. None without text, or with a single document."""
    entropy_bits: float
    """H2(p)."""
    entropy_standard_error: float
    """|log2((1 - p) / p)| times that of the activity; 0 where p is 0 or 1."""
    mean_burstiness: float = field(metadata=null_means(-math.inf))
    """Mean of log2 |b - p| over the rows, p log2(1 - p) + (1 - p) log2 p; minus infinity (null in
    JSON) for a feature that never changes."""
    firing_burstiness: float = field(metadata=null_means(-math.inf))
    """log2(1 - p), the burstiness of each firing; minus infinity (null in JSON) for a feature that
    is always on."""
    price_on_bits: float = field(metadata=null_means(math.inf))
    """-log2 p, what a firing costs to store; infinity (null in JSON) for a feature never on."""
    decoder_norm: float
    """Length of its decoder row in units of the codec's scales."""
    nearest: tuple[Nearest, ...]
    """Other features by the cosine of decoder rows in those units, largest first."""
    coactive: tuple[Coactive, ...]
    """Other features of positive phi, largest first; both on in at least `min_count` rows."""
    flags: tuple[Flag, ...]
    """"dead": never on. "always_on". "dense": on in many rows. "duplicate": a neighbour of either
    kind is nearly the same."""
    tokens: tuple[TokenCount, ...]
    """Tokens at which it is on most often; empty without text."""
    n_tokens: int | None
    """Different tokens at which it is on; None without text, as all until `top`."""
    token_entropy_bits: float | None
    """Entropy of the token over its firings: 0 where it is on at one token alone."""
    n_documents: int | None
    """Different documents in which it is on."""
    document_entropy_bits: float | None
    """Entropy of the document over its firings."""
    token_share: float | None
    """Share of its cost in bits that knowing the row's token saves, each row told by the others of
    its token: about I(b; token) / H2(p). Near 1 for a feature that names tokens, about 0 or a
    little below where the token tells nothing. None of a feature of fewer than 20 firings."""
    document_share: float | None
    """The same for the row's document: large for a feature that tells topics."""
    top: tuple[Context, ...]
    """Firings of largest margin, largest first."""
    random: tuple[Context, ...]
    """A uniform sample of its firings, by a random key of each row and so whatever the order."""
    counter: tuple[CounterExample, ...]
    """Rows where it is off though similar."""
