"""The variance-preserving schedule whose signal falls like a cosine: improved DDPM's."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cmtool.schedules.base import Scales, Schedule, check_range


@dataclass(frozen=True)
class VPCosine(Schedule):
    r"""x_t = a_t x + sqrt(1 - a_t^2) z with a_t = cos(u_t) / cos(u_0) and
    u_t = (t + s) / (1 + s) pi / 2; the grid is even in t.

    At t = 1 nothing is left of the image, so the range ends before. The paper's steps are discrete
    and clip beta at 0.999; this is the curve that they follow.

    Source:
        Nichol & Dhariwal 2021, arXiv 2102.09672, Eq. 17.

    Args:
        sigma_min: Smallest noise level, sigma_t / alpha_t, in units of pixel value. > 0.
        sigma_max: Largest noise level, same units.
        offset: s, which keeps the first steps from being too small. >= 0.

    Example:
        >>> [round(float(t), 4) for t in VPCosine().grid(2)]
        [0.992, 0.0001]
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    offset: float = 0.008

    def __post_init__(self) -> None:
        check_range(self.sigma_min, self.sigma_max)
        if not 0 <= self.offset < math.inf:
            raise ValueError(f"needs 0 <= offset < inf, got offset={self.offset}")

    @property
    def span(self) -> tuple[float, float]:
        levels = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64, device="cpu")
        low, high = self.from_sigma(levels).tolist()
        return low, high

    @property
    def _rate(self) -> float:
        """du / dt."""
        return math.pi / 2 / (1 + self.offset)

    def __call__(self, t: Tensor) -> Scales:
        start, turned = self.offset * self._rate, t * self._rate
        angle, scale = start + turned, math.cos(start)
        alpha = angle.cos() / scale
        # 1 - alpha^2 as a product, which keeps its digits near t = 0.
        sigma = (turned.sin() * (turned + 2 * start).sin()).sqrt() / scale
        d_alpha = -self._rate * angle.sin() / scale
        return Scales(alpha, sigma, d_alpha, -alpha * d_alpha / sigma)

    def from_sigma(self, sigma: Tensor) -> Tensor:
        start = self.offset * self._rate
        opposite = (sigma.square() + math.sin(start) ** 2).sqrt()
        return torch.atan2(opposite, math.cos(start) * torch.ones_like(sigma)) / self._rate - (
            self.offset
        )
