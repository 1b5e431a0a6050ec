"""Nearest training images: does a model remember them?"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmtool.metrics.frechet import Array, Features
from cmtool.metrics.kid import check

TILE = 2048
"""Rows and columns of distances at a time: 32 MiB."""


class Nearest(NamedTuple):
    """Of each query the Euclidean distances to its k nearest vectors (n, k), ascending, and which
    they are (n, k)."""

    distances: Array
    indices: NDArray[np.int64]


def nearest(queries: Features, among: Features, k: int = 1, *, same: bool = False) -> Nearest:
    """Finds them, exactly, in memory that does not grow with the sets.

    Args:
        queries: Features (n, d).
        among: Features (m, d).
        k: How many, at most m.
        same: Query i is vector i of `among`, and no neighbour of itself: for n <= m.

    Raises:
        ValueError: There are fewer than k, or the sets differ in d or are not finite.
    """
    check(queries, among)
    if not 1 <= k <= len(among) - same:
        raise ValueError(f"k = {k} needs 1 .. {len(among) - same}")
    origin = np.round(among.mean(0, dtype=np.float64))
    found = [
        _of_block(range(start, min(start + TILE, len(queries))), queries, among, origin, k, same)
        for start in range(0, len(queries), TILE)
    ]
    return Nearest(
        np.concatenate([part.distances for part in found]),
        np.concatenate([part.indices for part in found]),
    )


def _of_block(
    rows: range, queries: Features, among: Features, origin: Array, k: int, same: bool
) -> Nearest:
    a = queries[rows.start : rows.stop] - origin
    best = np.full((len(a), k), np.inf)
    which = np.zeros((len(a), k), np.int64)
    for left in range(0, len(among), TILE):
        b = among[left : left + TILE] - origin
        squares = np.square(a).sum(1)[:, None] - 2 * (a @ b.T) + np.square(b).sum(1)
        numbers = np.arange(left, left + len(b))
        if same:
            squares[np.arange(rows.start, rows.stop)[:, None] == numbers] = np.inf
        both = np.concatenate((best, squares), axis=1)
        names = np.concatenate((which, np.broadcast_to(numbers, squares.shape)), axis=1)
        kept = np.argpartition(both, k - 1, axis=1)[:, :k]
        best, which = (np.take_along_axis(part, kept, axis=1) for part in (both, names))
    # Differences of large squares lose digits: a copy has to have distance 0.
    gaps = (among[which] - origin) - a[:, None]
    distances = np.sqrt(np.square(gaps).sum(2))
    order = np.argsort(distances, axis=1, kind="stable")
    return Nearest(
        np.take_along_axis(distances, order, axis=1), np.take_along_axis(which, order, axis=1)
    )


class Nearer(NamedTuple):
    """The share of samples below a quantile of held-out distances."""

    quantile: float
    distance: float
    share: float


def nearer(samples: Array, held_out: Array, quantile: float) -> Nearer:
    """Which share of samples is nearer to the training images than all but a share `quantile` of
    images that were held out; about `quantile` for a model that remembers nothing.

    Args:
        samples: Distances to the nearest training image (n,).
        held_out: The same of images that were not trained on (m,).
        quantile: Between 0 and 1.
    """
    distance = float(np.quantile(held_out, quantile))
    return Nearer(quantile, distance, float((samples < distance).mean()))
