"""Noise levels even in their logarithm."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cmtool.schedules.base import Scales, Schedule, check_range


@dataclass(frozen=True)
class LogSigma(Schedule):
    r"""EDM's process x_t = x + t z with a geometric grid: every step divides the noise by the same.

    Such a grid is even in the log-SNR, the coordinate of exponential-integrator solvers.

    Source:
        Lu et al. 2022, arXiv 2206.00927, Section 3.3 and Appendix ("logSNR" steps). Karras et al.
        2022, arXiv 2206.00364, Table 1, gives Song's VE models such a grid.

    Args:
        sigma_min: Smallest noise level, in units of pixel value. > 0.
        sigma_max: Largest noise level, same units.

    Example:
        >>> [round(float(t), 3) for t in LogSigma().grid(3)]
        [80.0, 0.4, 0.002]
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        check_range(self.sigma_min, self.sigma_max)

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
        return t.log()

    def unwarp(self, w: Tensor) -> Tensor:
        return w.exp()
