"""The midpoint method; with the middle of log-SNR it is DPM-Solver-2."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers._stages import slope_at
from cmtool.solvers.base import Noise, Point, Solver, from_frame, level, to_frame
from cmtool.tensors import Denoise


@dataclass(frozen=True)
class Midpoint(Solver):
    """An Euler step to the middle, then the whole step with the slope found there.

    Source:
        Lu et al. 2022, arXiv 2206.00927, Algorithm 1 (DPM-Solver-2 with r_1 = 1/2) is this method
        with the geometric mean of both noise levels as its middle. The released code of Song et al.
        2023, arXiv 2303.01469, has in its sampler `dpm` the mean of their cube roots, cubed.

    Args:
        middle: "log" or "cubic", as above.
    """

    middle: Literal["log", "cubic"] = "log"
    order: ClassVar[int] = 2
    nfe: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.middle not in ("log", "cubic"):
            raise ValueError(f"middle is log or cubic, got {self.middle}")

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
        lam_r = level(schedule, r, x)
        if self.middle == "log":
            mid = (lam * lam_r).sqrt()
        else:
            mid = ((lam ** (1 / 3) + lam_r ** (1 / 3)) / 2) ** 3
        x0_hat = denoise(x, t)
        y_mid = y + (mid - lam) * (y - x0_hat) / lam
        slope = slope_at(denoise, schedule, y_mid, mid)
        return from_frame(schedule, y + (lam_r - lam) * slope, r), x0_hat
