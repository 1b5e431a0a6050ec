"""Euler's method; for diffusion models the same as DDIM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers.base import Noise, Point, Solver, from_frame, level, to_frame
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

    def step(
        self,
        denoise: Denoise,
        schedule: Schedule,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        *,
        history: Sequence[Point] = (),
        rng: Noise | None = None,
    ) -> tuple[Tensor, Tensor]:
        y, lam = to_frame(schedule, x, t)
        x0_hat = denoise(x, t)
        slope = (y - x0_hat) / lam
        return from_frame(schedule, y + (level(schedule, r, x) - lam) * slope, r), x0_hat
