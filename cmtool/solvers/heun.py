"""Heun's second-order method, the solver of EDM and of consistency distillation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers._stages import heun_step
from cmtool.solvers.base import Noise, Point, Solver
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
        return heun_step(denoise, schedule, x, t, r)
