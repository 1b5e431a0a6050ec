"""The variance-preserving schedule whose beta grows linearly with time: DDPM's."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cmtool.schedules.base import Scales, Schedule, check_range


@dataclass(frozen=True)
class VPLinear(Schedule):
    r"""x_t = sqrt(a_t) x + sqrt(1 - a_t) z with a_t = exp(-beta_d t^2 / 2 - beta_min t); the grid
    is even in t.

    The papers run it for t from 0.001 to 1, noise levels 0.0105 to 152. Here the range is given in
    noise levels like that of every schedule, and by default it is EDM's.

    Source:
        Ho et al. 2020, arXiv 2006.11239 (discrete); Song et al. 2021, arXiv 2011.13456, Eqs. 32 and
        33; as written here Karras et al. 2022, arXiv 2206.00364, Table 1, column VP.

    Args:
        sigma_min: Smallest noise level, sigma_t / alpha_t, in units of pixel value. > 0.
        sigma_max: Largest noise level, same units.
        beta_d: Growth of beta from t = 0 to 1. > 0.
        beta_min: beta at t = 0. > 0.

    Example:
        >>> [round(float(t), 4) for t in VPLinear(0.0105, 152).grid(2)]
        [0.9999, 0.001]
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    beta_d: float = 19.9
    beta_min: float = 0.1

    def __post_init__(self) -> None:
        check_range(self.sigma_min, self.sigma_max)
        for name, beta in (("beta_d", self.beta_d), ("beta_min", self.beta_min)):
            if not 0 < beta < math.inf:
                raise ValueError(f"needs 0 < {name} < inf, got {name}={beta}")

    @property
    def span(self) -> tuple[float, float]:
        levels = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64, device="cpu")
        low, high = self.from_sigma(levels).tolist()
        return low, high

    def __call__(self, t: Tensor) -> Scales:
        decay = t * (self.beta_d * t / 2 + self.beta_min)
        alpha, sigma = (-decay / 2).exp(), (-(-decay).expm1()).sqrt()
        half_beta = (self.beta_d * t + self.beta_min) / 2
        return Scales(alpha, sigma, -half_beta * alpha, half_beta * alpha.square() / sigma)

    def from_sigma(self, sigma: Tensor) -> Tensor:
        decay = sigma.square().log1p()
        # The root of the quadratic, in the form that keeps its digits near t = 0.
        return 2 * decay / ((self.beta_min**2 + 2 * self.beta_d * decay).sqrt() + self.beta_min)
