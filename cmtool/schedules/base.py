"""What a noise schedule is: x_t = alpha_t x + sigma_t z, and how its times are spaced."""

from abc import ABC, abstractmethod
from typing import NamedTuple, final

import torch
from torch import Tensor

from cmtool.tensors import expand


class Scales(NamedTuple):
    """Signal and noise scales at times t and their derivatives with respect to t, each shaped as
    t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Schedule(ABC):
    """A noising process on t_min .. t_max; larger t is noisier."""

    @property
    @abstractmethod
    def span(self) -> tuple[float, float]:
        """(t_min, t_max)."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Scales:
        """Scales at times t of any shape, in t's dtype."""

    def warp(self, t: Tensor) -> Tensor:
        """The coordinate, growing with t, in which the grid is even."""
        return t

    def unwarp(self, w: Tensor) -> Tensor:
        """The inverse of `warp`."""
        return w

    @final
    def between(self, t: Tensor, r: Tensor, n: int) -> Tensor:
        """n >= 2 times from t down to r, even in `warp`: (*) and (*) -> (n, *)."""
        steps = torch.linspace(0, 1, n, dtype=t.dtype, device=t.device)
        start, end = self.warp(t), self.warp(r)
        return self.unwarp(start + steps.reshape(-1, *(1,) * t.ndim) * (end - start))

    def to_edm(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, t) in EDM's frame: (x / alpha, sigma / alpha), images plus noise of that level."""
        scales = self(t)
        return x / expand(scales.alpha, x), scales.sigma / scales.alpha

    @abstractmethod
    def from_sigma(self, sigma: Tensor) -> Tensor:
        """The times at which noise over signal, sigma_t / alpha_t, has these values."""

    @final
    def sigma(self, t: Tensor) -> Tensor:
        """Noise over signal at times t: what a user calls the noise level."""
        scales = self(t)
        return scales.sigma / scales.alpha

    @property
    def t_min(self) -> float:
        """Smallest time, where a consistency model is the identity."""
        return self.span[0]

    @property
    def t_max(self) -> float:
        """Largest time, where sampling starts."""
        return self.span[1]

    @property
    def noise_range(self) -> tuple[float, float]:
        """Smallest and largest noise level, as a user counts them."""
        low, high = self.sigma(torch.tensor(self.span, dtype=torch.float64, device="cpu"))
        return float(low), float(high)

    @final
    def grid(self, n: int) -> Tensor:
        """n strictly decreasing times, (n,) float64, that begin at t_max and, for n > 1, end at
        t_min exactly.

        Raises:
            ValueError: n is below 1.
        """
        if n < 1:
            raise ValueError(f"a grid needs at least one time, got {n}")
        ends = torch.tensor([self.t_max, self.t_min], dtype=torch.float64)
        if n == 1:
            return ends[:1]
        times = self.between(ends[0], ends[1], n)
        times[0], times[-1] = ends[0], ends[1]
        return times

    @final
    def perturb(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Noisy images x_t = alpha_t x + sigma_t z: (B, *), (B, *) and (B,) -> (B, *)."""
        scales = self(t)
        return expand(scales.alpha, x) * x + expand(scales.sigma, x) * z

    @final
    def renoise(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Brings model outputs, which are samples at t_min, to time t: (B, *), (B, *) and (B,) ->
        (B, *).

        For x_t = x + t z this is x + sqrt(t^2 - t_min^2) z, the re-noising of Algorithm 1.

        Source:
            Song et al. 2023, arXiv 2303.01469, Algorithm 1, for a general schedule.
        """
        keep, std = self._renoising(x, t)
        return keep * x + std * z

    @final
    def noise_in(self, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise z of which `renoise` makes x_t out of x: (B, *), (B, *) and (B,), t > t_min ->
        (B, *)."""
        keep, std = self._renoising(x, t)
        return (x_t - keep * x) / std

    def _renoising(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self(torch.full_like(t, self.t_min)), self(t)
        keep = high.alpha / low.alpha
        std = (high.sigma.square() - (keep * low.sigma).square()).clamp(min=0).sqrt()
        return expand(keep, x), expand(std, x)


def check_range(sigma_min: float, sigma_max: float) -> None:
    """Checks a range of noise levels.

    Raises:
        ValueError: It is none.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"needs 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}"
        )
