"""A bound of the joint entropy that knows of pairs: the tree of Chow and Liu (1968)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitcodec.pairs import StrongestPairs


@dataclass(frozen=True, eq=False)
class EntropyTree:
    """A forest over the features, and the entropy of the distribution that it describes."""

    edges: np.ndarray
    """(m, 2) int64, pairs of features, most informative first."""
    information_bits: np.ndarray
    """(m,) float64, the mutual information of each edge."""
    entropy_bits: float
    """Sum of the bits' entropies less that of the edges' informations: what a row costs a coder
    that codes each bit by its parent in the tree. Of all forests over the candidates the least,
    and at least the joint entropy of the rows counted."""


def entropy_tree(pairs: StrongestPairs) -> EntropyTree:
    """Find the forest of most information among the strongest pairs.

    The best tree over all pairs is the maximum spanning tree of their mutual informations (Chow and
    Liu, 1968); among the pairs given it bounds the entropy too, if less tightly.

    Args:
        pairs: as `strongest_pairs` finds them.
    """
    edges, bits, _ = pairs.edges()
    kept = _spanning(edges, pairs.statistics.n_bits)
    told = bits[kept]
    entropy = pairs.statistics.entropy_bits - float(told.sum())
    return EntropyTree(edges[kept], told, entropy)


def _spanning(edges: np.ndarray, n_nodes: int) -> np.ndarray:
    """Keep the edges, in their order, that close no circle (Kruskal, 1956); (m,) bool."""
    parent = list(range(n_nodes))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    kept = np.zeros(len(edges), dtype=bool)
    for index, (left, right) in enumerate(edges.tolist()):
        tops = root(left), root(right)
        if tops[0] != tops[1]:
            parent[tops[0]], kept[index] = tops[1], True
    return kept
