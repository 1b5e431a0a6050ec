"""Frechet distance between two sets of features, each taken for a Gaussian.

Products of a matrix with itself are NumPy's, which computes half of them; eigenvalues and singular
values are torch's, whose LAPACK is the faster one. All of it is float64.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Features = NDArray[np.floating | np.integer]
EPS = float(np.finfo(np.float64).eps)
BLOCK = 1024
"""Fewest feature vectors that go into a covariance at once."""


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d) of n feature vectors; n is 0 if nobody knows."""

    mean: Array
    covariance: Array
    n: int

    @classmethod
    def of(cls, features: Features, ddof: int = 1) -> "Moments":
        """Moments of (n, d) features, n >= 2; the covariance divides by n - ddof.

        Raises:
            ValueError: There are fewer than two vectors, or a value is not finite.
        """
        x = np.array(features, np.float64)
        if len(x) < 2 or not np.isfinite(x).all():
            raise ValueError(f"needs two or more finite feature vectors, got {len(x)}")
        mean = x.mean(0)
        x -= mean
        return cls(mean, x.T @ x / (len(x) - ddof), len(x))

    @property
    def variance(self) -> float:
        """The trace of the covariance."""
        return float(np.trace(self.covariance))

    def rooted(self) -> "Rooted":
        """The same with a root of the covariance: for a reference, once for many distances.

        What is no more than rounding of the covariance is left out, so a root may be narrow.
        """
        covariance = torch.tensor(self.covariance)
        root, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            values, vectors = torch.linalg.eigh(covariance)
            kept = values > EPS * values[-1]
            root = vectors[:, kept] * values[kept].sqrt()
        return Rooted(self.mean, root.numpy(), self.n)


@dataclass(frozen=True)
class Rooted:
    """Mean (d,) and a root (d, r) of the covariance, root root^T, of n feature vectors."""

    mean: Array
    root: Array
    n: int

    @cached_property
    def covariance(self) -> Array:
        """The covariance (d, d)."""
        return self.root @ self.root.T

    @property
    def variance(self) -> float:
        """The trace of the covariance."""
        return float(np.linalg.norm(self.root)) ** 2

    def rooted(self) -> "Rooted":
        """Itself."""
        return self


Gaussian: TypeAlias = Moments | Rooted


class Running:
    """Moments of features that come in parts, in memory that does not grow with their number.

    Fewer vectors than dimensions are kept as they are: they are a root of their covariance, smaller
    and more exact than it. An instance can be pickled and sent to another process.

    Source:
        Chan, Golub & LeVeque 1979, for joining two parts.
    """

    def __init__(self) -> None:
        self.n = 0
        self.d = 0
        self._waiting: list[Array] = []
        self._joined = 0
        self._mean: Array = np.zeros(0)
        self._scatter: Array = np.zeros((0, 0))

    def add(self, features: Features) -> None:
        """Takes (n, d) features.

        Raises:
            ValueError: They are no matrix, or not as wide as those before.
        """
        if features.ndim != 2 or self.d not in (0, features.shape[1]):
            raise ValueError(f"needs features (n, {self.d or 'd'}), got {features.shape}")
        self.d = features.shape[1]
        block = max(BLOCK, self.d)
        for start in range(0, len(features), block):
            part = np.array(features[start : start + block], np.float64)
            self._waiting.append(part)
            self.n += len(part)
            if self.n - self._joined >= block:
                self._join_waiting()

    def merge(self, other: "Running") -> None:
        """Takes all that another one has taken."""
        for part in other._waiting:
            self.add(part)
        if other._joined:
            if self.d not in (0, other.d):
                raise ValueError(f"needs features (n, {self.d}), got (n, {other.d})")
            self.d = other.d
            self.n += other._joined
            self._join(other._joined, other._mean, other._scatter)

    def moments(self, ddof: int = 1) -> Gaussian:
        """Of all so far, as `Moments.of` of them together; `Rooted` when n < d.

        Raises:
            ValueError: There are fewer than two vectors, or a value is not finite.
        """
        if self.n >= 2 and not self._joined and self.n < self.d:
            x = np.concatenate(self._waiting)
            mean = x.mean(0)
            x -= mean
            if np.isfinite(x).all():
                return Rooted(mean, x.T / np.sqrt(self.n - ddof), self.n)
        self._join_waiting()
        if self.n < 2 or not np.isfinite(self._scatter).all():
            raise ValueError(f"needs two or more finite feature vectors, got {self.n}")
        return Moments(self._mean.copy(), self._scatter / (self.n - ddof), self.n)

    def _join_waiting(self) -> None:
        if self._waiting:
            x = np.concatenate(self._waiting)
            self._waiting = []
            mean = x.mean(0)
            x -= mean
            self._join(len(x), mean, x.T @ x)

    def _join(self, n: int, mean: Array, scatter: Array) -> None:
        if not self._joined:
            self._joined, self._mean, self._scatter = n, mean.copy(), scatter.copy()
            return
        total = self._joined + n
        shift = mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(shift, shift * (self._joined * n / total))
        self._mean += shift * (n / total)
        self._joined = total


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """||m_a - m_b||^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)).

    Rounding may leave a distance of nought a little below it: by less than 1e-6 of the rest.

    Source:
        Dowson & Landau 1982; as FID in Heusel et al. 2017, arXiv 1706.08500.

    Raises:
        ValueError: The two differ in their dimension, or a value is not finite.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {a.mean.size} and of {b.mean.size} dimensions")
    shift = float(np.square(a.mean - b.mean).sum())
    variance = a.variance + b.variance
    if not np.isfinite(shift + variance):
        raise ValueError("a mean or a variance is not finite")
    return shift + variance - 2 * _cross(a, b)


def _cross(a: Gaussian, b: Gaussian) -> float:
    """tr((A B)^(1/2)): the sum of the singular values of R_a^T R_b, where A = R_a R_a^T.

    They are the roots of the eigenvalues of R_a^T B R_a, which is symmetric: no complex numbers and
    no matrix square root.
    """
    if isinstance(a, Moments):
        a, b = b, a
    root = a.rooted().root
    if isinstance(b, Moments):
        gram = root.T @ b.covariance @ root
    else:
        product = root.T @ b.root
        gram = product @ product.T if len(product) <= product.shape[1] else product.T @ product
    return float(torch.linalg.eigvalsh(torch.from_numpy(gram)).clamp(min=0).sqrt().sum())


def pixel_features(images: NDArray[np.uint8]) -> Array:
    """Pixels as features for FD-pixel: (n, C, H, W) uint8 -> (n, C H W) in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float64) / 255
