"""Integer weights by which a row's earlier bits, and the row before, tell its next bit.

Bits of one code are not independent, nor are codes of neighbouring tokens. A table of kind 3 gives
bit j the log-odds

    bias_j + sum_{i < j} b_i within_ij + sum_i a_i across_ij,

b the row and a the row before it (a logistic autoregressive network: Frey 1998; the fully visible
case of Neal's sigmoid belief networks, 1992). Most weights are 0: each has to earn its place.

Format of a table, version 1, little-endian throughout:

    4s  "bptc"            u16 version        u16 0        u32 n_bits
    zlib stream of: i16 bias of each bit; i8 within, row by row; i8 across, row by row
    16s digest of everything so far
"""

from __future__ import annotations

import decimal
import functools
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Self

import numpy as np

from bitcodec.errors import FormatError, ShapeError, ValueRangeError
from bitcodec.probability import DIGEST_BYTES, Buffer, digest_of, unpack_header

UNIT = 1 / 16
"""Log-odds that a weight of 1 stands for, in nats."""
LARGEST_LOGIT = 177
"""Of log-odds, in units; beyond them a bit costs no less and no more: ln 65535 is 177.4 units."""
MAX_CONTEXT_BITS = 2**13
"""Bits of the largest table, whose weights take 128 MiB, and to read them thrice that."""
_VERSION = 1
_HEADER, _MAGIC = struct.Struct("<4sHHI"), b"bptc"


@functools.cache
def logit_probabilities() -> np.ndarray:
    """Return what each logit stands for, from correctly rounded decimal arithmetic.

    Returns:
        (355,) int64, 65,536 times the probability of logits -177 to 177, from 1 to 65,535.

    >>> logit_probabilities()[[0, 177, 354]].tolist()
    [1, 32768, 65535]
    """
    with decimal.localcontext(prec=30, rounding=decimal.ROUND_HALF_EVEN):
        whole, unit = decimal.Decimal(2**16), decimal.Decimal(UNIT)
        odds = ((unit * logit).exp() for logit in range(-LARGEST_LOGIT, LARGEST_LOGIT + 1))
        on = [int((whole * ratio / (1 + ratio)).to_integral_value()) for ratio in odds]
    return np.array(on, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ContextTable:
    """Integer weights of bits in the context of earlier bits and of the row before."""

    bias: np.ndarray
    """(h,) int16, log-odds in units of `UNIT`."""
    within: np.ndarray
    """(h, h) int8: what bit i of a row adds to its bit j > i; 0 elsewhere."""
    across: np.ndarray
    """(h, h) int8: what bit i of the row before adds to bit j."""

    def __post_init__(self) -> None:
        """Refuse arrays that are not a table.

        Raises:
            ShapeError: shapes disagree, or there are no bits or too many.
            ValueRangeError: a dtype is another, or a bit would tell itself or an earlier one.
        """
        h = len(self.bias)
        shapes = self.bias.shape, self.within.shape, self.across.shape
        if shapes != ((h,), (h, h), (h, h)) or not 1 <= h <= MAX_CONTEXT_BITS:
            raise ShapeError(
                f"bias, within and across must be (h,), (h, h) and (h, h) with h up to "
                f"{MAX_CONTEXT_BITS}, got {shapes}: a table of profiles takes more bits"
            )
        dtypes = self.bias.dtype, self.within.dtype, self.across.dtype
        if dtypes != (np.dtype(np.int16), np.dtype(np.int8), np.dtype(np.int8)):
            raise ValueRangeError(f"bias must be int16, weights int8, got {dtypes}")
        if np.tril(self.within).any():
            raise ValueRangeError("within must be 0 on and below its diagonal")

    def __eq__(self, other: object) -> bool:
        """Compare by content."""
        return isinstance(other, ContextTable) and other.digest == self.digest

    def __hash__(self) -> int:
        """Hash by content."""
        return hash(self.digest)

    @property
    def kind(self) -> str:
        """What the table is, in a word."""
        return "context"

    @property
    def n_bits(self) -> int:
        """The number of bits h."""
        return len(self.bias)

    @property
    def least_bits(self) -> float:
        """A lower bound of the bits any row takes, so that a file cannot promise more rows."""
        return -self.n_bits * math.log2(1 - 2.0**-16)

    @functools.cached_property
    def digest(self) -> bytes:
        """16 bytes that tell this table from another."""
        return digest_of(self._content())

    def to_bytes(self) -> bytes:
        """Return magic, version, bits, the weights and a digest."""
        return self._bytes

    @functools.cached_property
    def _bytes(self) -> bytes:
        body = _HEADER.pack(_MAGIC, _VERSION, 0, self.n_bits) + zlib.compress(self._content(), 9)
        return body + digest_of(body)

    def _content(self) -> bytes:
        return self.bias.astype("<i2").tobytes() + self.within.tobytes() + self.across.tobytes()

    @staticmethod
    def is_magic(data: Buffer) -> bool:
        """Tell whether bytes start as a table of this kind does."""
        return bytes(memoryview(data).cast("B")[: len(_MAGIC)]) == _MAGIC

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """Read a table.

        Raises:
            FormatError: the bytes are no whole table, damaged or of a newer format.
        """
        view = memoryview(data).cast("B")
        _, n_bits = unpack_header(
            _HEADER, view, magic=_MAGIC, version=_VERSION, what="a context table"
        )
        if digest_of(view[:-DIGEST_BYTES]) != view[-DIGEST_BYTES:]:
            raise FormatError("the context table is damaged: its checksum does not match")
        if not 1 <= n_bits <= MAX_CONTEXT_BITS:
            raise FormatError(f"a context table has 1 to {MAX_CONTEXT_BITS} bits, got {n_bits}")
        content = _inflated(view[_HEADER.size : -DIGEST_BYTES], size=2 * n_bits * (n_bits + 1))
        weights = np.frombuffer(content, np.int8, offset=2 * n_bits).reshape(2, n_bits, n_bits)
        try:
            table = cls(
                bias=np.frombuffer(content, "<i2", n_bits).astype(np.int16),
                within=weights[0].copy(),
                across=weights[1].copy(),
            )
        except (ShapeError, ValueRangeError) as error:
            raise FormatError(f"the context table is invalid: {error}") from error
        table.__dict__["_bytes"] = bytes(view)  # another zlib might compress them otherwise
        return table


def _inflated(view: memoryview, *, size: int) -> bytes:
    """Decompress to exactly `size` bytes, and never to more."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(view, size)
    except zlib.error as error:
        raise FormatError(f"the context table is damaged: {error}") from error
    if len(content) != size or not stream.eof or stream.unused_data:
        raise FormatError(f"the context table does not hold {size} bytes: it is damaged")
    return content
