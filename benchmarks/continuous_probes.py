"""How a continuous quantity is spread over features: linear probes by size, and thermometers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.isotonic import isotonic_regression
from sklearn.linear_model import orthogonal_mp_gram

PENALTIES = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
"""Ridge penalties that are tried, in rows: features have unit variance."""
ONE_IN = 5
"""One training row in so many, at the end, chooses the penalty."""
N_BINS = 20
"""Bins of a tuning curve, with equal rows as far as ties allow."""


@dataclass(frozen=True)
class Probe:
    """How well a quantity is read from features, by how many may be used."""

    full_r2: float
    """Held-out R2 of ridge regression on all features."""
    penalty: float
    """Its penalty, chosen on training rows."""
    sizes: tuple[int, ...]
    """Features that are used."""
    r2: tuple[float, ...]
    """Held-out R2 of least squares on as many features, chosen one by one."""
    chosen: tuple[int, ...]
    """The features, in the order in which they were chosen."""

    @property
    def best_r2(self) -> float:
        """The best held-out R2 of any: a probe on all features may overfit the rare ones."""
        return max(self.full_r2, *self.r2)

    def needed(self, share: float) -> int | None:
        """Return the fewest features that reach a share of the best R2; None if none do."""
        reached = np.flatnonzero(np.array(self.r2) >= share * self.best_r2)
        return self.sizes[int(reached[0])] if len(reached) and self.full_r2 > 0 else None


def probe(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    sizes: Sequence[int],
) -> list[Probe]:
    """Read quantities from features by ridge regression, and by few of the features.

    Features are chosen by orthogonal matching pursuit on the training rows (Pati, Rezaiifar and
    Krishnaprasad 1993): each next one is that of largest correlation with what is left, and all are
    fitted anew.

    Args:
        train: (m, h) float32 features and (m, a) quantities; neighbouring rows are of one text.
        test: (n, h) and (n, a), of other texts.
        sizes: numbers of features, ascending.

    Returns:
        One probe a quantity.
    """
    features, quantities = train
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    centre = quantities.mean(axis=0)
    given, asked = (features - mean) / scale, quantities - centre
    tested = (test[0] - mean) / scale
    n_fitted = len(given) - len(given) // ONE_IN
    fitted, kept = (given[:n_fitted], asked[:n_fitted]), (given[n_fitted:], asked[n_fitted:])
    sums, more = _sums(*fitted), _sums(*kept)
    penalties = _choose_penalties(sums, kept)
    gram, cross = sums[0] + more[0], sums[1] + more[1]
    probes = []
    for column, penalty in enumerate(penalties):
        target, truth = cross[:, column], test[1][:, column] - centre[column]
        full = _ridge(gram, target, penalty)
        path, chosen = _pursue(gram, target, min(max(sizes), len(gram)))
        reached = [size for size in sizes if size <= path.shape[1]]
        shown = [r_squared(truth, tested @ path[:, size - 1]) for size in reached]
        full_r2 = r_squared(truth, tested @ full)
        probes.append(Probe(full_r2, penalty, tuple(reached), tuple(shown), chosen))
    return probes


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return 1 less the squared error over that of the truth's own mean."""
    return float(1 - np.square(truth - predicted).sum() / np.square(truth - truth.mean()).sum())


def _sums(features: np.ndarray, quantities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    products = (features.T @ features).astype(np.float64)
    return products, features.T.astype(np.float64) @ quantities


def _ridge(gram: np.ndarray, cross: np.ndarray, penalty: float) -> np.ndarray:
    solution: np.ndarray = np.linalg.solve(gram + penalty * np.eye(len(gram)), cross)
    return solution


def _choose_penalties(
    sums: tuple[np.ndarray, np.ndarray], kept: tuple[np.ndarray, np.ndarray]
) -> list[float]:
    """Return the penalty of each quantity that does best on the rows kept from fitting."""
    scores = []
    for penalty in PENALTIES:
        predicted = kept[0] @ _ridge(*sums, penalty)
        scores.append([r_squared(*pair) for pair in zip(kept[1].T, predicted.T, strict=True)])
    return [PENALTIES[best] for best in np.argmax(scores, axis=0)]


def _pursue(gram: np.ndarray, cross: np.ndarray, size: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the weights (h, k) of the best 1, 2, ..., k features, and the features in order."""
    path = orthogonal_mp_gram(gram, cross, n_nonzero_coefs=size, return_path=True)
    path = path.reshape(len(gram), -1)
    first_used = np.where((path != 0).any(axis=1), (path != 0).argmax(axis=1), path.shape[1])
    order = np.argsort(first_used, kind="stable")[: int((first_used < path.shape[1]).sum())]
    return path, tuple(int(feature) for feature in order)


def bin_rows(quantity: np.ndarray) -> np.ndarray:
    """Return the bin of every row, by rank; rows of equal value share one."""
    edges = np.unique(np.quantile(quantity, np.linspace(0, 1, N_BINS + 1)[1:-1]))
    return np.searchsorted(edges, quantity, side="left")


def tuning_curves(on: np.ndarray, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return P(on | bin), (b, m), and the rows of every bin, (b,), of (n, m) bool features."""
    rows = np.bincount(bins)
    sums = np.stack([on[bins == place].sum(axis=0) for place in range(len(rows))])
    return sums[rows > 0] / rows[rows > 0, None], rows[rows > 0]


def monotone_share(curve: np.ndarray, rows: np.ndarray) -> float:
    """Return how much of a tuning curve's variance a monotone curve explains, 0 to 1.

    Args:
        curve: (b,) P(on | bin), bins ascending.
        rows: (b,) of each bin, the weights.

    >>> monotone_share(np.array([0.1, 0.2, 0.9]), np.ones(3))
    1.0
    """
    mean = np.average(curve, weights=rows)
    whole = np.average(np.square(curve - mean), weights=rows)
    if whole == 0:
        return 1.0
    missed = []
    for increasing in (True, False):
        fit = isotonic_regression(curve, sample_weight=rows, increasing=increasing)
        missed.append(np.average(np.square(curve - fit), weights=rows))
    return float(1 - min(missed) / whole)


def scale_coefficient(on: np.ndarray) -> float:
    """Return Loevinger's H: 1 where on-sets are nested, 0 where features are independent.

    Of every pair the rows in which the rarer is on without the commoner are errors; H is 1 less all
    errors over those that independence expects (Mokken, "A theory and procedure of scale analysis",
    1971, which calls a scale strong from .5 on). A thermometer's bits have H = 1.

    Args:
        on: (n, m) bool, m at least 2, none always on or always off.

    >>> scale_coefficient(np.array([[0, 0], [0, 1], [1, 1]], dtype=bool))
    1.0
    """
    order = np.argsort(on.mean(axis=0), kind="stable")
    ordered = on[:, order].astype(np.float64)
    share, both = ordered.mean(axis=0), ordered.T @ ordered / len(on)
    pairs = np.triu_indices(len(share), k=1)  # the rarer first
    errors = (share[:, None] - both)[pairs].sum()
    expected = (share[:, None] * (1 - share))[pairs].sum()
    return float(1 - errors / expected)


def thermometer(
    on: np.ndarray, quantity: np.ndarray, chosen: Sequence[int], *, seed: int = 0
) -> dict[str, Any]:
    """Return how like a thermometer's the chosen features are, on rows they were not chosen on.

    Features that fall with the quantity are turned round first. `nested` is the coefficient H of
    the chosen; `nested_by_curves` that of features with the same tuning curves and nothing else in
    common; `nested_of_others` that of as many random other features; that of shuffled rows is 0.

    Args:
        on: (n, h) bool.
        quantity: (n,) float.
        chosen: features.
        seed: of the shuffles.
    """
    random, bins = np.random.default_rng(seed), bin_rows(quantity)
    varied = np.flatnonzero((on.any(axis=0)) & ~on.all(axis=0))
    taken = [feature for feature in chosen if feature in set(varied.tolist())]
    if len(taken) < 2:
        return {"features": len(taken)}
    others = np.setdiff1d(varied, taken)
    others = random.choice(others, size=min(len(taken), len(others)), replace=False)
    rising = turned(on[:, taken], quantity)
    curves, rows = tuning_curves(rising, bins)
    shuffled = tuning_curves(rising, random.permutation(bins))
    figures = {
        "features": len(taken),
        "monotone_share": [round(monotone_share(curve, rows), 4) for curve in curves.T],
        "monotone_share_shuffled": float(
            np.median([monotone_share(curve, shuffled[1]) for curve in shuffled[0].T])
        ),
        "told_by_bins": [round(value, 4) for value in told_by_bins(curves, rows).tolist()],
        "thresholds": [round(threshold(curve, rows), 3) for curve in curves.T],
        "nested": scale_coefficient(rising),
        "nested_shuffled": scale_coefficient(random.permuted(rising, axis=0)),
        "nested_by_curves": scale_coefficient(shuffled_within(rising, bins, random)),
    }
    if len(others) > 1:
        figures["nested_of_others"] = scale_coefficient(turned(on[:, others], quantity))
    return figures


def turned(on: np.ndarray, quantity: np.ndarray) -> np.ndarray:
    """Return features, those that fall with the quantity being on where they were off."""
    centred = quantity - quantity.mean()
    rising: np.ndarray = on ^ (centred @ (on - on.mean(axis=0)) < 0)
    return rising


def told_by_bins(curves: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the share of each feature's variance that lies between bins, (m,)."""
    share = np.average(curves, axis=0, weights=rows)
    between = np.average(np.square(curves - share), axis=0, weights=rows)
    told: np.ndarray = between / (share * (1 - share))
    return told


def threshold(curve: np.ndarray, rows: np.ndarray) -> float:
    """Return the quantile of the quantity at which the rising curve is half way up."""
    fit = isotonic_regression(curve, sample_weight=rows)
    half = int(np.argmax(fit >= (fit[0] + fit[-1]) / 2))
    return float((rows[:half].sum() + rows[half] / 2) / rows.sum())


def shuffled_within(on: np.ndarray, bins: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return features with every one's rows shuffled within the bins."""
    shuffled = on.copy()
    for place in np.unique(bins):
        here = bins == place
        shuffled[here] = random.permuted(on[here], axis=0)
    return shuffled
