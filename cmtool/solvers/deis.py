"""DEIS: past noises, extrapolated in log-SNR."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers._multistep import integral, places, shrinking
from cmtool.solvers.base import Noise, Point, Solver, from_frame, level, to_frame
from cmtool.tensors import Denoise


@dataclass(frozen=True)
class DEIS(Solver):
    """y_r = y + integral of p over lambda_t .. lambda_r, p the polynomial in ln lambda through this
    noise (y - x0_hat) / lambda and the last `order` - 1. A path begins with its lower orders.

    Source:
        Zhang & Chen 2022, arXiv 2204.13902 (tAB-DEIS). They extrapolate in the time of their
        schedule; in ln lambda the method is the same for every schedule.

    Args:
        order: 1 to 3; 1 is Euler's method.
    """

    order: Literal[1, 2, 3] = 3
    nfe: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order is 1, 2 or 3, got {self.order}")

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
        points = [here, *reversed(history)][: self.order]
        noises = []
        for point in points:
            past, lam_past = to_frame(schedule, point.x, point.t)
            noises.append((past - point.x0_hat) / lam_past)
        moments = shrinking(h, len(points))
        y_r = y - lam * integral(places(schedule, points, lam), noises, moments)
        return from_frame(schedule, y_r, r), here.x0_hat
