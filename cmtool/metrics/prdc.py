"""Precision, recall, density and coverage: which features lie inside whose nearest neighbours.

Distances are float64 and computed tile by tile, so memory does not grow with the sets. Whole
numbers have exact distances. OpenAI's evaluator computes them in float16: single images may fall to
the other side there.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cmtool.metrics.frechet import Array, Features
from cmtool.metrics.kid import check

TILE = 2048
"""Rows and columns of distances at a time: 32 MiB."""


class Prdc(NamedTuple):
    """Shares, but for density, which has no upper limit."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(reference: Features, samples: Features, k: int = 3) -> Prdc:
    """All four, from closed balls around each vector up to its k-th nearest neighbour.

    Precision: share of samples in a reference's ball. Recall: share of references in a sample's
    ball. Density: mean number of references' balls around a sample, over k. Coverage: share of
    references with a sample in their ball. k = 3 is usual for the first two, 5 for the others. The
    sets may differ in size, which changes all values: OpenAI's evaluator takes 10,000 references
    and 50,000 samples. A vector's own distance does not count as a neighbour's.

    Source:
        Kynkaanniemi et al. 2019, arXiv 1904.06991, Section 2; Naeem et al. 2020, arXiv 2002.09797,
        equations 4 and 5.

    Args:
        reference: Features of real images (n, d).
        samples: Features of generated images (m, d).
        k: Which neighbour, below n and m.

    Raises:
        ValueError: A set has no k-th neighbour, the two differ in d or are not finite.
    """
    check(reference, samples)
    if not 1 <= k < min(len(reference), len(samples)):
        raise ValueError(f"k = {k} needs 1 .. {min(len(reference), len(samples)) - 1}")
    # A whole number is taken off all: it keeps digits, and whole numbers whole.
    origin = np.round(reference.mean(0, dtype=np.float64))
    ball, sample_ball = _radii(reference, origin, k), _radii(samples, origin, k)
    around = np.zeros(len(samples))
    recalled, covered = np.zeros(len(reference), bool), np.zeros(len(reference), bool)
    for rows, columns, squares in _tiles(reference, samples, origin):
        inside = squares <= ball[rows, None]
        around[columns] += inside.sum(0)
        covered[rows] |= inside.any(1)
        recalled[rows] |= (squares <= sample_ball[columns]).any(1)
    return Prdc(
        precision=float((around > 0).mean()),
        recall=float(recalled.mean()),
        density=float(around.mean() / k),
        coverage=float(covered.mean()),
    )


def _radii(x: Features, origin: Array, k: int) -> Array:
    """Squared distance of each vector to its k-th nearest other one (n,)."""
    nearest = np.full((len(x), k), np.inf)
    for rows, columns, squares in _tiles(x, x, origin):
        if rows == columns:
            np.fill_diagonal(squares, np.inf)
        both = np.concatenate((nearest[rows], squares), axis=1)
        nearest[rows] = np.partition(both, k - 1, axis=1)[:, :k]
    radii: Array = nearest.max(1)
    return radii


def _tiles(x: Features, y: Features, origin: Array) -> Iterator[tuple[slice, slice, Array]]:
    """Squared distances between x and y in parts, as (rows, columns, values)."""
    for top in range(0, len(x), TILE):
        rows = slice(top, min(top + TILE, len(x)))
        a = x[rows] - origin
        for left in range(0, len(y), TILE):
            columns = slice(left, min(left + TILE, len(y)))
            b = y[columns] - origin
            squares = a @ b.T
            squares *= -2
            squares += np.square(a).sum(1)[:, None]
            squares += np.square(b).sum(1)
            yield rows, columns, squares
