"""DPM-Solver++(2M): two answers, one evaluation a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers._multistep import answer, places
from cmtool.solvers.base import Noise, Point, Solver, from_frame, level, to_frame
from cmtool.tensors import Denoise


@dataclass(frozen=True)
class DPMpp2M(Solver):
    """y_r = e^-h y + (1 - e^-h) x0_mid with h = ln(lambda_t / lambda_r) and x0_mid the line through
    this answer and the last one, in log-SNR, half a step ahead. A path's first step is Euler's.

    Source:
        Lu et al. 2022, arXiv 2211.01095, Algorithm 2.
    """

    order: ClassVar[int] = 2
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
        h = (lam / level(schedule, r, x)).log()
        here = Point(t, x, denoise(x, t))
        points = [here, *reversed(history)][:2]
        values = [point.x0_hat for point in points]
        y_r = (-h).exp() * y + answer(places(schedule, points, lam), values, h)
        return from_frame(schedule, y_r, r), here.x0_hat
