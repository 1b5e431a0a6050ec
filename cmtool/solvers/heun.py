"""Heun's second-order method, the solver of EDM and of consistency distillation."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers.base import Solver, from_frame, to_frame
from cmtool.tensors import Denoise


@dataclass(frozen=True)
class Heun(Solver):
    """An Euler step, then the mean of the slopes at both ends.

    Source:
        Karras et al. 2022, arXiv 2206.00364, Algorithm 1. Song et al. 2023, arXiv 2303.01469,
        distil with it.
    """

    order: ClassVar[int] = 2
    nfe: ClassVar[int] = 2

    def step(self, denoise: Denoise, schedule: Schedule, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        y, lam = to_frame(schedule, x, t)
        _, lam_r = to_frame(schedule, x, r)
        # Euler step.
        slope = (y - denoise(x, t)) / lam
        y_r = y + (lam_r - lam) * slope
        # Second-order correction.
        slope_r = (y_r - denoise(from_frame(schedule, y_r, r), r)) / lam_r
        return from_frame(schedule, y + (lam_r - lam) * (slope + slope_r) / 2, r)
