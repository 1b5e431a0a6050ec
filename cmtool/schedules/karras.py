"""The variance-exploding schedule of EDM, in which time is the noise level."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cmtool.schedules.base import Scales, Schedule, check_range


@dataclass(frozen=True)
class Karras(Schedule):
    r"""Variance-exploding noise with time equal to noise level: x_t = x + t z.

    The grid spends most levels near the data:
        t_i = (t_max^(1/rho) + i/(n-1) (t_min^(1/rho) - t_max^(1/rho)))^rho,  i = 0 .. n-1

    Source:
        Karras et al. 2022, arXiv 2206.00364, Eq. 5. Song et al. 2023, arXiv 2303.01469, use the
        same levels in increasing order; here they decrease, so that grid(n)[0] is pure noise.

    Args:
        sigma_min: Smallest noise level, in units of pixel value (images are in [-1, 1]). > 0.
        sigma_max: Largest noise level, same units.
        rho: Curvature; 1 is linear, larger moves levels towards sigma_min.

    Example:
        >>> [round(float(t), 3) for t in Karras().grid(3)]
        [80.0, 2.515, 0.002]
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_range(self.sigma_min, self.sigma_max)
        if not self.rho > 0:
            raise ValueError(f"needs rho > 0, got rho={self.rho}")

    @property
    def span(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max

    def __call__(self, t: Tensor) -> Scales:
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        return Scales(alpha=one, sigma=t, d_alpha=zero, d_sigma=one)

    def to_edm(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x, t

    def from_sigma(self, sigma: Tensor) -> Tensor:
        return sigma

    def warp(self, t: Tensor) -> Tensor:
        return t ** (1 / self.rho)

    def unwarp(self, w: Tensor) -> Tensor:
        return w**self.rho
