"""At which tokens and in which documents features are on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bitcodec.best_rows import random_keys
from bitcodec.groups import GroupStatistics
from bitcodec.passages import TextRows
from bitcodec.report_features import TokenCount

_BLOCK_BYTES = 8
"""Bytes of a row, of eight features each, that are unpacked for all rows at a time."""
SHOWN_TOKENS = 10
"""Tokens that are listed of each feature."""


@dataclass(frozen=True)
class FiringTexts:
    """The tokens and documents of one feature's firings."""

    tokens: tuple[TokenCount, ...]
    """The most frequent tokens."""
    n_tokens: int
    """Different tokens."""
    token_entropy_bits: float
    """Entropy of the token over the firings."""
    n_documents: int
    """Different documents."""
    document_entropy_bits: float
    """Entropy of the document over the firings."""
    clustered_error: float | None
    """Standard error of the activity, taking documents as independent; None of one document."""
    without: tuple[int, ...]
    """A uniform sample of the rows of the most frequent token in which the feature is off."""


def firing_rows(codes: np.ndarray, *, n_bits: int) -> Iterator[np.ndarray]:
    """Yield for each feature the rows in which it is on, ascending.

    Args:
        codes: (n, ceil(h / 8)) uint8; a few columns are unpacked at a time.
        n_bits: h.

    Yields:
        (count,) int64.
    """
    for start in range(0, n_bits, 8 * _BLOCK_BYTES):
        n_columns = min(8 * _BLOCK_BYTES, n_bits - start)
        block = np.ascontiguousarray(codes[:, start // 8 : start // 8 + _BLOCK_BYTES])
        bits = np.unpackbits(block, axis=1, count=n_columns, bitorder="little")
        for column in np.ascontiguousarray(bits.T):
            yield np.flatnonzero(column)


class TokenIndex:
    """Rows by their tokens and documents.

    Args:
        rows: the rows in their texts.
        n_sampled: rows without a feature to give of each.
        seed: of these.
    """

    def __init__(self, rows: TextRows, *, n_sampled: int, seed: int) -> None:
        self._rows, self._n_sampled = rows, n_sampled
        self._document = rows.columns["document"]
        self._ids, self._token = np.unique(rows.columns["token_id"], return_inverse=True)
        self._counts = np.bincount(self._token, minlength=len(self._ids))
        self._by_token = np.argsort(self._token, kind="stable")
        self._first = np.concatenate([[0], np.cumsum(self._counts)])
        self._document_rows = np.bincount(self._document).astype(np.float64)
        self._keys = random_keys(np.arange(len(rows)), seed=seed)

    def describe(self, firings: np.ndarray) -> FiringTexts:
        """Describe a feature by the rows in which it is on, (count,) int64 ascending."""
        tokens, first, counts = np.unique(
            self._token[firings], return_index=True, return_counts=True
        )
        documents, of_document = np.unique(self._document[firings], return_counts=True)
        order = np.lexsort((tokens, -counts))[:SHOWN_TOKENS]
        shown = zip(tokens[order], firings[first[order]], counts[order], strict=True)
        return FiringTexts(
            tokens=tuple(self._token_count(*item) for item in shown),
            n_tokens=len(tokens),
            token_entropy_bits=_entropy(counts),
            n_documents=len(of_document),
            document_entropy_bits=_entropy(of_document),
            clustered_error=self._clustered_error(documents, of_document),
            without=self._without(firings, int(tokens[order[0]])) if len(order) else (),
        )

    def _token_count(self, token: np.int64, row: np.int64, count: np.int64) -> TokenCount:
        return TokenCount(
            token_id=int(self._ids[token]),
            token=self._rows.token(int(row)),
            n_on=int(count),
            n_rows=int(self._counts[token]),
        )

    def _clustered_error(self, documents: np.ndarray, n_on: np.ndarray) -> float | None:
        """Return the error of n_on.sum() / n over documents, by the residuals n_on - p n_rows.

        Args:
            documents: (m,) those in which the feature is on.
            n_on: (m,) rows of each in which it is.
        """
        rows, n_rows = self._document_rows, len(self._rows)
        n_documents = np.count_nonzero(rows)
        if n_documents < 2:
            return None
        p = n_on.sum() / n_rows
        residuals = -p * rows
        residuals[documents] += n_on
        scale = n_documents / (n_documents - 1)
        return float(np.sqrt(scale * np.square(residuals).sum()) / n_rows)

    def _without(self, firings: np.ndarray, token: int) -> tuple[int, ...]:
        same = self._by_token[self._first[token] : self._first[token + 1]]
        off = same[~np.isin(same, firings, assume_unique=True)]
        chosen = off[np.argsort(self._keys[off], kind="stable")[: self._n_sampled]]
        return tuple(chosen.tolist())


def told_by(keys: np.ndarray, codes: np.ndarray, *, n_bits: int, min_rows: int) -> np.ndarray:
    """Return the share of each feature's entropy that a key of the row tells.

    Args:
        keys: (n,) integers.
        codes: (n, ceil(h / 8)) uint8.
        n_bits: h.
        min_rows: keys of fewer rows count as one.

    Returns:
        (h,) float64, as `GroupStatistics.explained_shares`.
    """
    values, group, counts = np.unique(keys, return_inverse=True, return_counts=True)
    pooled = np.where(counts >= min_rows, np.arange(len(values)), -1)[group]
    return GroupStatistics.empty(n_bits).update(codes, pooled).explained_shares()


def _entropy(counts: np.ndarray) -> float:
    total = counts.sum()
    if total == 0:
        return 0.0
    shares = counts / total
    return float(-(shares * np.log2(shares)).sum()) + 0.0
