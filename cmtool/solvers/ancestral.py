"""Euler's method with fresh noise after every step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers.base import Noise, Point, Solver, from_frame, level, to_frame
from cmtool.tensors import Denoise


@dataclass(frozen=True)
class Ancestral(Solver):
    """Euler's step to a level below lambda_r, then noise up to it:
        up = eta lambda_r sqrt(1 - lambda_r^2 / lambda_t^2),  down^2 = lambda_r^2 - up^2

    Source:
        Ho et al. 2020, arXiv 2006.11239, Algorithm 2 with the smaller of its variances, as Song et
        al. 2020, arXiv 2010.02502, Eq. 16, write it for any noise levels.

    Args:
        eta: Share of the noise that is fresh, 0 to 1; 0 is Euler's method (DDIM), 1 is DDPM.
    """

    eta: float = 1.0
    order: ClassVar[int] = 1
    nfe: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is in 0 .. 1, got {self.eta}")

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
        if rng is None:
            raise ValueError("ancestral needs rng: it adds noise")
        y, lam = to_frame(schedule, x, t)
        lam_r = level(schedule, r, x)
        up = self.eta * lam_r * (1 - (lam_r / lam).square()).clamp(min=0).sqrt()
        down = (lam_r.square() - up.square()).sqrt()
        x0_hat = denoise(x, t)
        y_r = y + (down - lam) * (y - x0_hat) / lam + up * rng.randn(x.shape[1:]).to(y)
        return from_frame(schedule, y_r, r), x0_hat
