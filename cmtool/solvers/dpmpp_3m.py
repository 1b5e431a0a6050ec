"""DPM-Solver++(3M): three answers, one evaluation a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers._multistep import answer, places
from cmtool.solvers.base import Noise, Point, Solver, from_frame, level, to_frame
from cmtool.tensors import Denoise


@dataclass(frozen=True)
class DPMpp3M(Solver):
    """y_r = e^-h y + integral of e^(s - h) p(s) over a step, p the parabola in log-SNR through this
    answer and the last two. A path's first step is Euler's, its second one DPM-Solver++(2M)'s.

    Source:
        Lu et al. 2022, arXiv 2211.01095, their multistep method for three answers. The authors'
        code halves the curvature's weight, which leaves an order of 2; here it is whole.
    """

    order: ClassVar[int] = 3
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
        points = [here, *reversed(history)][:3]
        values = [point.x0_hat for point in points]
        y_r = (-h).exp() * y + answer(places(schedule, points, lam), values, h)
        return from_frame(schedule, y_r, r), here.x0_hat
