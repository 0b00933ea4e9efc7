"""Integer probabilities of the bits, from counts or learned, and their bytes.

A table of kind 1 has one probability a bit. Bits are not independent: a table of kind 2 has several
activity profiles, and each row is coded with the one that suits it best.

A probability is one of 255 levels, equally spaced in log-odds, so that whatever is computed from a
table is the same on every machine. No probability is 0: a bit that was never seen costs up to 16
bits, and is kept.

Format of a table, version 1, little-endian throughout:

    4s  "bptb"            u16 version        u16 n_profiles      u32 n_bits
    u16 for each profile  its weight
    u8  for each profile and bit             its level
    16s digest of everything so far
"""

from __future__ import annotations

import decimal
import functools
import hashlib
import struct
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from bitcodec.bits import check_packed, row_bytes, unpack
from bitcodec.errors import ConfigError, FormatError, ShapeError, ValueRangeError
from bitcodec.statistics import BitStatistics

Buffer = bytes | bytearray | memoryview

MAX_PROFILES = 256
"""Profiles of the largest table."""
EVEN = 127
"""The level of probability one half; levels go from 0 to 254."""
MODEL_TOTAL = 2**24
"""What the counts of a byte's model sum to: constriction's models count in 24 bits."""
DIGEST_BYTES = 16
"""Bytes of a table's digest."""
_VERSION = 1
_HEADER, _MAGIC = struct.Struct("<4sHHI"), b"bptb"
_ROWS_AT_ONCE = 4096  # so that learning needs little memory


@functools.cache
def probability_levels() -> tuple[np.ndarray, np.ndarray]:
    """Return what each level stands for, from correctly rounded decimal arithmetic.

    Level l means log-odds of (l - 127) / 127 · ln 65535.

    Returns:
        (255,) int64 probabilities times 65,536, from 1 to 65,535; and (255,) int64 of
        -ln(1 - p), in units of a level's log-odds divided by 65,536.

    >>> probability_levels()[0][[0, 127, 254]].tolist()
    [1, 32768, 65535]
    """
    with decimal.localcontext(prec=30, rounding=decimal.ROUND_HALF_EVEN):
        largest, whole = decimal.Decimal(2**16 - 1).ln(), decimal.Decimal(2**16)
        on, off_costs = [], []
        for level in range(2 * EVEN + 1):
            odds = (largest * (level - EVEN) / EVEN).exp()
            on.append(int((whole * odds / (1 + odds)).to_integral_value()))
            cost = -(1 - on[-1] / whole).ln() * EVEN / largest * whole
            off_costs.append(int(cost.to_integral_value()))
    return np.array(on, dtype=np.int64), np.array(off_costs, dtype=np.int64)


def to_levels(activity: np.ndarray) -> np.ndarray:
    """Round probabilities to levels.

    Args:
        activity: any shape, float in [0, 1]; 0 and 1 become the outermost levels.

    Returns:
        The same shape, uint8 from 0 to 254.

    Raises:
        ValueRangeError: a value is outside [0, 1].
    """
    p = np.asarray(activity, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueRangeError("activity must lie in [0, 1]: pass the mean of each bit")
    p = np.clip(p, 2.0**-17, 1 - 2.0**-17)
    log_odds = (np.log(p) - np.log1p(-p)) / np.log(2**16 - 1)
    levels: np.ndarray = np.clip(np.rint(EVEN + EVEN * log_odds), 0, 2 * EVEN).astype(np.uint8)
    return levels


@dataclass(frozen=True, eq=False)
class ProbabilityTable:
    """Integer probabilities of the bits, in one or several profiles."""

    levels: np.ndarray
    """(n_profiles, h) uint8 from 0 to 254, the probability of each bit as `probability_levels`."""
    weights: np.ndarray
    """(n_profiles,) uint16 from 1, how often each profile is used."""

    def __post_init__(self) -> None:
        """Refuse arrays that are not a table.

        Raises:
            ShapeError: shapes disagree, or there are no bits, no profiles or too many.
            ValueRangeError: a dtype is another, a level is 255 or a weight is 0.
        """
        levels, weights = self.levels, self.weights
        if levels.ndim != 2 or weights.shape != levels.shape[:1] or levels.size == 0:
            raise ShapeError(f"levels must be (k, h), weights (k,): {levels.shape} {weights.shape}")
        if len(levels) > MAX_PROFILES:
            raise ShapeError(f"a table has at most {MAX_PROFILES} profiles, got {len(levels)}")
        if levels.dtype != np.uint8 or levels.max() > 2 * EVEN:
            raise ValueRangeError(f"levels must be uint8 up to {2 * EVEN}")
        if weights.dtype != np.uint16 or weights.min() < 1:
            raise ValueRangeError("weights must be uint16 from 1")

    @classmethod
    def from_statistics(cls, statistics: BitStatistics) -> Self:
        """Make a table of kind 1 from counts.

        A bit that was never (or always) on gets the probability of half an event.

        Raises:
            NotFittedError: no row was counted yet.
        """
        expected = statistics.activity * statistics.n_rows + 0.5
        return cls._from_activity((expected / (statistics.n_rows + 1))[None], np.ones(1))

    @classmethod
    def learn(
        cls,
        packed: np.ndarray,
        *,
        n_bits: int,
        n_profiles: int = 32,
        n_iterations: int = 12,
        seed: int = 0,
    ) -> Self:
        """Learn a table of kind 2: a mixture of Bernoulli profiles, by expectation-maximisation.

        Args:
            packed: (n, ceil(h / 8)) uint8, tens of thousands of rows like those to be coded.
            n_bits: true bits h of a row.
            n_profiles: from 1 to 256; more make fewer bytes and slower coding, and a larger table.
            n_iterations: passes over the rows.
            seed: of the choice of rows that the profiles start from.

        Returns:
            The table.

        Raises:
            ConfigError: a number of profiles or iterations is out of range.
            ShapeError: the width is not that of h bits, or there are fewer rows than profiles.
            ValueRangeError: the dtype is not uint8, or a pad bit is set.
        """
        if not 1 <= n_profiles <= MAX_PROFILES or n_iterations < 1:
            raise ConfigError(f"n_profiles must be 1 to {MAX_PROFILES}, n_iterations from 1")
        check_packed(packed, n_bits=n_bits)
        if len(packed) < n_profiles:
            raise ShapeError(f"{n_profiles} profiles need as many rows, got {len(packed)}")
        statistics = BitStatistics.empty(n_bits).update(packed)
        common = (statistics.counts + 0.5) / (len(packed) + 1)
        first = np.random.default_rng(seed).choice(len(packed), n_profiles, replace=False)
        profiles = 0.7 * common + 0.3 * unpack(packed[np.sort(first)], n_bits=n_bits)
        shares = np.full(n_profiles, 1 / n_profiles)
        for _ in range(n_iterations if n_profiles > 1 else 1):
            totals, sums = _expected_counts(packed, profiles, shares)
            profiles = (sums + 8 * common) / (totals[:, None] + 8)  # 8 rows of what all share
            shares = (totals + 1) / (totals + 1).sum()
        return cls._from_activity(profiles, shares)

    @classmethod
    def _from_activity(cls, activity: np.ndarray, shares: np.ndarray) -> Self:
        weights = np.clip(np.rint(shares * 65535), 1, 65535).astype(np.uint16)
        return cls(levels=to_levels(activity), weights=weights)

    def __eq__(self, other: object) -> bool:
        """Compare by content."""
        return isinstance(other, ProbabilityTable) and other.digest == self.digest

    def __hash__(self) -> int:
        """Hash by content."""
        return hash(self.digest)

    @property
    def n_bits(self) -> int:
        """The number of bits h."""
        return int(self.levels.shape[1])

    @property
    def kind(self) -> str:
        """What the table is, in a word or two."""
        return "independent" if self.n_profiles == 1 else f"{self.n_profiles} profiles"

    @property
    def n_profiles(self) -> int:
        """The number of profiles; 1 for a table of kind 1."""
        return len(self.levels)

    @functools.cached_property
    def digest(self) -> bytes:
        """16 bytes that tell this table from another."""
        return digest_of(self.to_bytes())

    @functools.cached_property
    def least_bits(self) -> float:
        """A lower bound of the bits any row takes, so that a file cannot promise more rows."""
        on = probability_levels()[0][self.levels]
        likelier = np.ones((self.n_profiles, 8 * row_bytes(self.n_bits)))
        likelier[:, : self.n_bits] = np.maximum(on, 2**16 - on) / 2**16
        symbols = likelier.reshape(self.n_profiles, -1, 8).prod(axis=2)
        n_symbols = 2.0 ** np.minimum(8, self.n_bits - 8 * np.arange(symbols.shape[1]))
        rounding = 2 * n_symbols / MODEL_TOTAL  # twice what integer models can add to a symbol
        return float((-np.log2(np.minimum(symbols + rounding, 1))).sum(axis=1).min())

    def to_bytes(self) -> bytes:
        """Return magic, version, profiles and bits, the weights, the levels and a digest."""
        head = _HEADER.pack(_MAGIC, _VERSION, self.n_profiles, self.n_bits)
        body = head + self.weights.astype("<u2").tobytes() + self.levels.tobytes()
        return body + digest_of(body)

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """Read a table.

        Raises:
            FormatError: the bytes are no whole table, damaged or of a newer format.
        """
        view = memoryview(data).cast("B")
        n_profiles, n_bits = unpack_header(
            _HEADER, view, magic=_MAGIC, version=_VERSION, what="a probability table"
        )
        size = _HEADER.size + 2 * n_profiles + n_profiles * n_bits + DIGEST_BYTES
        if len(view) != size:
            raise FormatError(
                f"a table of {n_profiles} x {n_bits} takes {size} bytes, got {len(view)}: "
                "it is truncated or damaged"
            )
        if digest_of(view[:-DIGEST_BYTES]) != view[-DIGEST_BYTES:]:
            raise FormatError("the probability table is damaged: its checksum does not match")
        weights = np.frombuffer(view, "<u2", n_profiles, _HEADER.size).astype(np.uint16)
        levels = np.frombuffer(view, np.uint8, n_profiles * n_bits, _HEADER.size + 2 * n_profiles)
        try:
            return cls(levels=levels.reshape(n_profiles, n_bits).copy(), weights=weights)
        except (ShapeError, ValueRangeError) as error:
            raise FormatError(f"the probability table is invalid: {error}") from error


def digest_of(data: Buffer) -> bytes:
    """Return the 16 bytes of BLAKE2b that seal a table or a container."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def unpack_header(
    form: struct.Struct, view: memoryview, *, magic: bytes, version: int, what: str
) -> list[Any]:
    """Check the magic and the version that bytes start with.

    Args:
        form: the header, which starts with the magic and the version.
        view: the bytes.
        magic: what they must start with.
        version: the only one that is read.
        what: they are, for messages.

    Returns:
        The header's other fields.

    Raises:
        FormatError: the bytes are too few, foreign or of another format.
    """
    if len(view) < form.size or view[: len(magic)] != magic:
        raise FormatError(f"these bytes are not {what} of bitcodec")
    _, found, *fields = form.unpack_from(view)
    if found != version:
        raise FormatError(
            f"{what} of format {found}, this version reads {version}: upgrade bitcodec"
        )
    return fields


def _expected_counts(
    packed: np.ndarray, profiles: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    # One E step: how many rows each profile takes, and how often each bit is on in them.
    p = np.clip(profiles, 1e-6, 1 - 1e-6)
    slopes = (np.log(p) - np.log1p(-p)).astype(np.float32).T
    offsets = np.log1p(-p).sum(axis=1) + np.log(shares)
    totals, sums = np.zeros(len(p)), np.zeros(p.shape)
    for start in range(0, len(packed), _ROWS_AT_ONCE):
        bits = unpack(packed[start : start + _ROWS_AT_ONCE], n_bits=p.shape[1])
        rows = bits.astype(np.float32)
        scores = rows @ slopes + offsets
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
        totals += chances.sum(axis=0, dtype=np.float64)
        sums += chances.T @ rows
    return totals, sums
