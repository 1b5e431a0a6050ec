"""Frechet distance between two sets of features, each taken for a Gaussian."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d) of n feature vectors."""

    mean: Array
    covariance: Array
    n: int

    @classmethod
    def of(cls, features: NDArray[np.floating | np.integer]) -> "Moments":
        """Moments of (n, d) features, n >= 2; the covariance divides by n - 1.

        Raises:
            ValueError: There are fewer than two vectors, or a value is not finite.
        """
        x = np.asarray(features, np.float64)
        if len(x) < 2 or not np.isfinite(x).all():
            raise ValueError(f"needs two or more finite feature vectors, got {len(x)}")
        return cls(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False)), len(x))


class Running:
    """Moments of features that come in parts; memory does not grow with their number.

    Source:
        Chan, Golub & LeVeque 1979, for joining two parts.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean: Array = np.zeros(1)
        self._scatter: Array = np.zeros((1, 1))

    def add(self, features: NDArray[np.floating | np.integer]) -> None:
        """Takes (n, d) features."""
        x = np.asarray(features, np.float64)
        if not len(x):
            return
        mean, total = x.mean(0), self.n + len(x)
        shift = mean - self._mean
        self._mean = self._mean + shift * (len(x) / total)
        spread = np.outer(shift, shift) * (self.n * len(x) / total)
        self._scatter = self._scatter + (x - mean).T @ (x - mean) + spread
        self.n = total

    def moments(self) -> Moments:
        """Of all so far, as `Moments.of` of them together.

        Raises:
            ValueError: There are fewer than two vectors, or a value is not finite.
        """
        if self.n < 2 or not np.isfinite(self._scatter).all():
            raise ValueError(f"needs two or more finite feature vectors, got {self.n}")
        return Moments(self._mean, self._scatter / (self.n - 1), self.n)


def frechet_distance(a: Moments, b: Moments) -> float:
    """||m_a - m_b||^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)).

    The last trace is the sum of the roots of the eigenvalues of R^T B R with A = R R^T, which is
    symmetric: no complex numbers and no matrix square root.

    Source:
        Dowson & Landau 1982; as FID in Heusel et al. 2017, arXiv 1706.08500.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = vectors * np.sqrt(values.clip(min=0))
    cross = np.sqrt(np.linalg.eigvalsh(root.T @ b.covariance @ root).clip(min=0)).sum()
    shift = float(np.square(a.mean - b.mean).sum())
    return shift + float(np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def pixel_features(images: NDArray[np.uint8]) -> Array:
    """Pixels as features for FD-pixel: (n, C, H, W) uint8 -> (n, C H W) in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float64) / 255
