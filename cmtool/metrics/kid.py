"""Kernel distance between two sets of features: the squared maximum mean discrepancy of the
polynomial kernel (x.y / d + 1)^3; on Inception features KID.

All sums are float64. Kernels are computed tile by tile, so memory does not grow with the sets.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmtool.metrics.frechet import Array, Features

TILE = 2048
"""Rows and columns of a kernel at a time: 32 MiB."""


class Kid(NamedTuple):
    """An estimate, and its standard error or standard deviation as the function tells."""

    value: float
    spread: float


def kernel(x: Features, y: Features) -> Array:
    """(x.y / d + 1)^3 for every pair: (n, d), (m, d) -> (n, m), float64.

    Source:
        Binkowski et al. 2018, arXiv 1801.01401, Section 4.
    """
    base: Array = x.astype(np.float64, copy=False) @ y.astype(np.float64, copy=False).T
    base /= x.shape[1]
    base += 1
    return base * base * base


def tiles(x: Features, y: Features | None = None) -> Iterator[tuple[slice, slice, Array]]:
    """The kernel between x and y in parts, as (rows, columns, values).

    Without y it is that of x with itself, its diagonal set to nought.
    """
    other = x if y is None else y
    for top in range(0, len(x), TILE):
        rows = slice(top, min(top + TILE, len(x)))
        part = x[rows].astype(np.float64)
        for left in range(0, len(other), TILE):
            columns = slice(left, min(left + TILE, len(other)))
            values = kernel(part, other[columns])
            if y is None and left == top:
                np.fill_diagonal(values, 0)
            yield rows, columns, values


def kid(x: Features, y: Features) -> Kid:
    """The full unbiased estimate of all pairs, all n m of the cross term too, with standard error.

    mean k(x_i, x_i') + mean k(y_j, y_j') - 2 mean k(x_i, y_j) over i != i', j != j'. May be below
    nought. The error is the delete-one jackknife of two samples: each vector of either set is left
    out in turn, and the two sets' variances are added; exact, from the sums of the kernel's rows.

    Source:
        Gretton et al. 2012, JMLR 13, Lemma 6; the error: Arvesen 1969, Ann. Math. Stat. 40.

    Args:
        x: Features (n, d), n >= 3.
        y: Features (m, d), m >= 3.

    Raises:
        ValueError: A set has fewer than three vectors, the two differ in d or are not finite.
    """
    check(x, y)
    if min(len(x), len(y)) < 3:
        raise ValueError(f"needs three or more feature vectors each, got {len(x)} and {len(y)}")
    n, m = len(x), len(y)
    within_x, within_y = _row_sums(x), _row_sums(y)
    across_x, across_y = np.zeros(n), np.zeros(m)
    for rows, columns, values in tiles(x, y):
        across_x[rows] += values.sum(1)
        across_y[columns] += values.sum(0)
    xx, yy, xy = within_x.sum(), within_y.sum(), across_x.sum()
    mean_xx, mean_yy = xx / (n * (n - 1)), yy / (m * (m - 1))
    value = mean_xx + mean_yy - 2 * xy / (n * m)
    less_x = (xx - 2 * within_x) / ((n - 1) * (n - 2)) - 2 * (xy - across_x) / ((n - 1) * m)
    less_y = (yy - 2 * within_y) / ((m - 1) * (m - 2)) - 2 * (xy - across_y) / ((m - 1) * n)
    variance = (n - 1) * less_x.var() + (m - 1) * less_y.var()
    return Kid(float(value), float(np.sqrt(variance)))


def kid_of_subsets(
    x: Features, y: Features, *, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> Kid:
    """Mean and standard deviation of the unbiased estimate over random subsets, as the tools do it.

    The subsets are those of torch-fidelity 0.4 for the same seed. The deviation is that of one
    subset, no error of the mean.

    Source:
        Binkowski et al. 2018, arXiv 1801.01401, Section 4.

    Args:
        x: Features (n, d).
        y: Features (m, d).
        subsets: How many.
        size: Vectors of each set in a subset, drawn without replacement.
        seed: For drawing them.

    Raises:
        ValueError: A set is smaller than `size`, the two differ in d or are not finite.
    """
    check(x, y)
    if not 2 <= size <= min(len(x), len(y)):
        raise ValueError(f"subsets of {size} need 2 .. {min(len(x), len(y))}")
    rng = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        a = x[rng.choice(len(x), size, replace=False)]
        b = y[rng.choice(len(y), size, replace=False)]
        aa, bb, ab = kernel(a, a), kernel(b, b), kernel(a, b)
        within = aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)
        found.append(within / (size * (size - 1)) - 2 * ab.mean())
    return Kid(float(np.mean(found)), float(np.std(found)))


def check(x: Features, y: Features) -> None:
    """Checks that two sets can be compared.

    Raises:
        ValueError: They differ in d, or hold values that are not finite.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"needs features (n, d) and (m, d), got {x.shape} and {y.shape}")
    if not all(np.isfinite(part.sum(dtype=np.float64)) for part in (x, y)):
        raise ValueError("a feature is not finite")


def _row_sums(x: NDArray[np.floating | np.integer]) -> Array:
    sums = np.zeros(len(x))
    for rows, _, values in tiles(x):
        sums[rows] += values.sum(1)
    return sums
