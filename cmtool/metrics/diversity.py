"""How much images differ from each other: the mean over all pairs, at the cost of one pass."""

import torch
from torch import Tensor


class PairMean:
    """Mean of |a - b|^2 over all pairs of vectors that came, in memory for one of them.

    With m the mean vector, sum over i < j of |a_i - a_j|^2 = n sum |a_i - m|^2, so the mean is
    twice the unbiased variance, summed over the values.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean: Tensor | None = None
        self._scatter = 0.0

    def add(self, vectors: Tensor) -> None:
        """Takes (B, d) vectors, B >= 1."""
        x = vectors.double()
        mean = x.mean(0)
        self._join(len(x), mean, float((x - mean).square().sum()))

    def join(self, other: "PairMean") -> None:
        """Takes all that another has taken."""
        if other._mean is not None:
            self._join(other.n, other._mean, other._scatter)

    def _join(self, n: int, mean: Tensor, scatter: float) -> None:
        if self._mean is None:
            self._mean = torch.zeros_like(mean)
        gap = mean - self._mean
        self._scatter += scatter + float(gap.square().sum()) * self.n * n / (self.n + n)
        self._mean = self._mean + gap * (n / (self.n + n))
        self.n += n

    @property
    def pairs(self) -> int:
        """How many there are."""
        return self.n * (self.n - 1) // 2

    def value(self) -> float:
        """The mean.

        Raises:
            ValueError: There is no pair.
        """
        if self.n < 2:
            raise ValueError(f"a pair needs two vectors, got {self.n}")
        return 2 * self._scatter / (self.n - 1)
