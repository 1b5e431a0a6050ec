"""DPM-Solver-fast: singlestep DPM-Solvers of order 3, and of lower order where a path ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers._stages import slope_at
from cmtool.solvers.base import SET_BY_PATH, Noise, Point, Solver, from_frame, level, to_frame
from cmtool.tensors import Denoise


@dataclass(frozen=True)
class DPMSolverFast(Solver):
    """DPM-Solver-k with k = `stages`: an exponential integrator of the noise in log-SNR.

    With h = ln(lambda_t / lambda_r), e the noise (y - x0_hat) / lambda and stages after a third and
    two thirds of h (after a half for k = 2):
        y_1 = y + (lambda_1 - lambda_t) e_t
        y_2 = y + (lambda_2 - lambda_t) e_t - 2 ((lambda_t - lambda_2) / (2 h / 3) - lambda_2) d_1
        y_r = y + (lambda_r - lambda_t) e_t - 3/2 ((lambda_t - lambda_r) / h - lambda_r) d_2
    where d_i = e_i - e_t. Of K evaluations a path spends as many as it can in threes; the last two
    steps are of order 2 and 1 if K divides by three, else the last is of order K mod 3.

    Source:
        Lu et al. 2022, arXiv 2206.00927, Algorithms 1 and 2 and the split in their appendix. They
        do without the closing denoising; here K is one less than all evaluations.

    Args:
        stages: 1 is Euler's method, 2 the midpoint method.
    """

    stages: Literal[1, 2, 3] = field(default=3, metadata={SET_BY_PATH: True})

    def __post_init__(self) -> None:
        if self.stages not in (1, 2, 3):
            raise ValueError(f"stages is 1, 2 or 3, got {self.stages}")

    @property
    def order(self) -> int:
        return self.stages

    @property
    def nfe(self) -> int:
        return self.stages

    def path(self, nfe: int, euler: Solver) -> tuple[Solver, ...]:
        threes, rest = divmod(nfe, 3)
        ends = [rest]
        if rest == 0:
            threes, ends = threes - 1, [2, 1]
        stages = [3] * threes + ends if nfe else []
        members = replace(self, stages=1), replace(self, stages=2), replace(self, stages=3)
        return tuple(members[k - 1] for k in stages)

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
        x0_hat = denoise(x, t)
        slope = (y - x0_hat) / lam

        def euler(to: Tensor) -> Tensor:
            return y + (to - lam) * slope

        if self.stages == 1:
            return from_frame(schedule, euler(lam_r), r), x0_hat
        h = (lam / lam_r).log()
        if self.stages == 2:
            mid = lam * (-h / 2).exp()
            slope = slope_at(denoise, schedule, euler(mid), mid)
            return from_frame(schedule, euler(lam_r), r), x0_hat

        def bend(to: Tensor, share: float) -> Tensor:
            """Integral of s over [0, share h], for a noise that grows with log-SNR s."""
            return (lam - to) / (share * h).clamp(min=1e-12) - to

        lam_1, lam_2 = lam * (-h / 3).exp(), lam * (-2 * h / 3).exp()
        turn = slope_at(denoise, schedule, euler(lam_1), lam_1) - slope
        y_2 = euler(lam_2) - 2 * bend(lam_2, 2 / 3) * turn
        turn = slope_at(denoise, schedule, y_2, lam_2) - slope
        return from_frame(schedule, euler(lam_r) - 1.5 * bend(lam_r, 1) * turn, r), x0_hat
