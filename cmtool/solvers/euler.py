"""Euler's method; for diffusion models the same as DDIM."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers.base import Solver, from_frame, to_frame
from cmtool.tensors import Denoise


@dataclass(frozen=True)
class Euler(Solver):
    """One denoiser call, then a straight line: y_r = y_t + (lambda_r - lambda_t) (y_t - x0_hat) /
    lambda_t.

    Source:
        Karras et al. 2022, arXiv 2206.00364, Algorithm 1 without its correction. Song et al. 2020,
        arXiv 2010.02502 (DDIM), is this step.
    """

    order: ClassVar[int] = 1
    nfe: ClassVar[int] = 1

    def step(self, denoise: Denoise, schedule: Schedule, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        y, lam = to_frame(schedule, x, t)
        _, lam_r = to_frame(schedule, x, r)
        slope = (y - denoise(x, t)) / lam
        return from_frame(schedule, y + (lam_r - lam) * slope, r)
