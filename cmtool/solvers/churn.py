"""EDM's stochastic sampler: a little noise in, then Heun's step from there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers._stages import heun_step
from cmtool.solvers.base import SET_BY_PATH, Noise, Point, Solver, from_frame, to_frame
from cmtool.tensors import Denoise


@dataclass(frozen=True)
class Churn(Solver):
    """Raises the noise from lambda to lambda (1 + gamma), gamma = min(s_churn / steps, sqrt(2) -
    1), where s_min <= lambda <= s_max; then Heun's method. With s_churn = 0 it is Heun's method.

    Source:
        Karras et al. 2022, arXiv 2206.00364, Algorithm 2; the defaults are theirs for ImageNet-64
        (Table 5). The closing denoising adds no noise.

    Args:
        s_churn: Amount of noise over a whole path.
        s_min: Smallest noise level to add noise at.
        s_max: Largest.
        s_noise: Standard deviation of the added noise, over the one that is right for a perfect
            denoiser.
        steps: Noise levels of a path; sampling sets it.
    """

    s_churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.003
    steps: int = field(default=18, metadata={SET_BY_PATH: True})
    order: ClassVar[int] = 2
    nfe: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.s_churn >= 0 and self.s_noise >= 0 and self.steps >= 1):
            raise ValueError(
                f"needs s_churn >= 0, s_noise >= 0 and steps >= 1, got s_churn={self.s_churn}, "
                f"s_noise={self.s_noise}, steps={self.steps}"
            )

    def among(self, levels: int) -> Solver:
        return replace(self, steps=levels)

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
            raise ValueError("churn needs rng: it adds noise")
        y, lam = to_frame(schedule, x, t)
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        raised = lam * (1 + gamma * ((lam >= self.s_min) & (lam <= self.s_max)))
        z = rng.randn(x.shape[1:]).to(y)
        y = y + (raised.square() - lam.square()).sqrt() * self.s_noise * z
        t_raised = schedule.from_sigma(raised.flatten())
        return heun_step(denoise, schedule, from_frame(schedule, y, t_raised), t_raised, r)
