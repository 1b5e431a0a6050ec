"""How far a figure would move with other samples of the same number: bootstrap intervals.

The figure is computed again for sets that are drawn from the features with replacement. A drawn set
is a count for each vector; the vectors are not copied. Its distance is biased once more as that of
n samples is already, so the drawn figures are moved until their mean is the figure itself: an
interval for what n samples give on average, not for n without end.
"""

from typing import NamedTuple

import numpy as np

from cmtool.metrics.frechet import (
    BLOCK,
    Array,
    Features,
    Gaussian,
    Moments,
    Rooted,
    Running,
    frechet_distance,
)
from cmtool.metrics.kid import check, kid, tiles


class Interval(NamedTuple):
    """Ends of an interval, and the standard deviation of what it was made from."""

    low: float
    high: float
    error: float


def frechet_interval(
    features: Features,
    reference: Gaussian,
    *,
    repeats: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of `frechet_distance` for other samples against the same reference.

    A repeat costs as much as the distance itself, statistics included.

    Source:
        Efron & Tibshirani 1993, An Introduction to the Bootstrap, Chapters 6 and 10.

    Args:
        features: Of the samples (n, d).
        reference: What they are compared with; it is taken to be without error.
        repeats: Sets that are drawn, 2 or more.
        level: Share of cases that the interval is to hold.
        seed: For drawing.

    Raises:
        ValueError: There are fewer than two vectors, or a value is not finite.
    """
    running = Running()
    running.add(features)
    rooted = reference.rooted()
    value = frechet_distance(running.moments(), rooted)
    found = [
        frechet_distance(reweighted(features, counts), rooted)
        for counts in _counts(len(features), repeats, seed)
    ]
    low, high, error = interval(value, np.array(found), level)
    return Interval(max(low, 0.0), high, error)


def kid_interval(
    x: Features, y: Features, *, repeats: int = 200, level: float = 0.95, seed: int = 0
) -> Interval:
    """Interval of `kid.kid`, both sets drawn anew; all repeats together cost about one more `kid`.

    A vector that was drawn twice makes no pair with itself, so a drawn estimate stays unbiased.

    Args:
        x: Features (n, d), n >= 3.
        y: Features (m, d), m >= 3.
        repeats: Pairs of sets that are drawn, 2 or more.
        level: Share of cases that the interval is to hold.
        seed: For drawing.

    Raises:
        ValueError: A set has fewer than three vectors, the two differ in d or are not finite.
    """
    check(x, y)
    value = kid(x, y).value
    draws = _counts(len(x), repeats, seed, 0), _counts(len(y), repeats, seed, 1)
    within = np.zeros(repeats)
    for features, counts in zip((x, y), draws, strict=True):
        sums = np.zeros(repeats)
        for rows, columns, values in tiles(features):
            sums += ((counts[:, rows] @ values) * counts[:, columns]).sum(1)
        within += sums / (len(features) ** 2 - np.square(counts).sum(1))
    across = np.zeros(repeats)
    for rows, columns, values in tiles(x, y):
        across += ((draws[0][:, rows] @ values) * draws[1][:, columns]).sum(1)
    return interval(value, within - 2 * across / (len(x) * len(y)), level)


def reweighted(features: Features, counts: Array) -> Gaussian:
    """Moments of (n, d) features, each taken so often as `counts` (n,) tells; two in all at least.

    Raises:
        ValueError: A value is not finite.
    """
    n, d = int(counts.sum()), features.shape[1]
    drawn = np.flatnonzero(counts)
    blocks = [drawn[start : start + BLOCK] for start in range(0, len(drawn), BLOCK)]
    mean: Array = np.zeros(d)
    for rows in blocks:
        mean += counts[rows] @ features[rows].astype(np.float64)
    mean /= n
    if not np.isfinite(mean).all():
        raise ValueError("a feature is not finite")

    def centred(rows: np.ndarray) -> Array:
        part: Array = (features[rows] - mean) * np.sqrt(counts[rows, None] / (n - 1))
        return part

    if len(drawn) < d:
        return Rooted(mean, centred(drawn).T, n)
    covariance = np.zeros((d, d))
    for rows in blocks:
        part = centred(rows)
        covariance += part.T @ part
    return Moments(mean, covariance, n)


def interval(value: float, drawn: Array, level: float) -> Interval:
    """Percentiles of drawn figures (r,), moved until their mean is `value`."""
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) - drawn.mean() + value
    return Interval(float(low), float(high), float(drawn.std(ddof=1)))


def _counts(n: int, repeats: int, *seed: int) -> Array:
    """How often each of n vectors is drawn, in each repeat: (repeats, n), every row adds up to n.

    A longer list of repeats begins with the shorter one.
    """
    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(repeats))
    return np.stack(list(drawn)).astype(np.float64)
