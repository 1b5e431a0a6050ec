"""TrigFlow's schedule, in which time is an angle."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cmtool.schedules.base import Scales, Schedule, check_range


@dataclass(frozen=True)
class TrigFlow(Schedule):
    r"""x_t = cos(t) x + sin(t) sigma_data z with t in [0, pi/2]; the grid is even in t.

    It is EDM's process seen from another frame: t = atan(sigma / sigma_data), x_t = cos(t) x_edm,
    and x_t / sigma_data is what EDM's network gets. So models convert both ways without training.

    Source:
        Lu & Song 2024, arXiv 2410.11081, Section 3.

    Args:
        sigma_data: Standard deviation of the data, in units of pixel value.
        sigma_min: Smallest noise level, same units, as in EDM's frame.
        sigma_max: Largest noise level.

    Example:
        >>> [round(float(t), 4) for t in TrigFlow().grid(2)]
        [1.5645, 0.004]
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(f"needs sigma_data > 0, got sigma_data={self.sigma_data}")
        check_range(self.sigma_min, self.sigma_max)

    @property
    def span(self) -> tuple[float, float]:
        low, high = self.sigma_min / self.sigma_data, self.sigma_max / self.sigma_data
        return math.atan(low), math.atan(high)

    def __call__(self, t: Tensor) -> Scales:
        cos, sin = t.cos(), t.sin()
        return Scales(cos, self.sigma_data * sin, -sin, self.sigma_data * cos)

    def from_sigma(self, sigma: Tensor) -> Tensor:
        return torch.atan(sigma / self.sigma_data)
