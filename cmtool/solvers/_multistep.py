"""What the multistep methods share: polynomials through past answers, integrated over a step.

The variable is s = ln(lambda_t / lambda), log-SNR counted from the step's start; past points have
s < 0, the step ends at s = h.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers.base import Noise, Point, Solver, from_frame, level, to_frame
from cmtool.tensors import Denoise


def places(schedule: Schedule, points: Sequence[Point], lam: Tensor) -> list[Tensor]:
    """s of each point, seen from lambda."""
    return [(lam / level(schedule, point.t, lam)).log() for point in points]


def growing(h: Tensor, n: int) -> list[Tensor]:
    """Integrals of s^k e^(s - h) over [0, h] for k < n: the weights of x0_hat in a step."""
    found = [-torch.expm1(-h)]
    for k in range(1, n):
        found.append(h**k - k * found[-1])
    return found


def shrinking(h: Tensor, n: int) -> list[Tensor]:
    """Integrals of s^k e^-s over [0, h] for k < n: the weights of the noise in a step."""
    found = [-torch.expm1(-h)]
    for k in range(1, n):
        found.append(k * found[-1] - h**k * (-h).exp())
    return found


def integral(at: Sequence[Tensor], values: Sequence[Tensor], moments: Sequence[Tensor]) -> Tensor:
    """Integral of the polynomial through (at, values), (B, *), given those of s^k."""
    divided, basis = list(values), [torch.ones_like(moments[0])]
    total = moments[0] * divided[0]
    for n in range(1, len(at)):
        # Newton's form: the next divided difference, times (s - at_0) ... (s - at_(n-1)).
        for i in range(len(at) - 1, n - 1, -1):
            gap = at[i] - at[i - n]
            # Images that stood still have equal values there, and no slope.
            divided[i] = (divided[i] - divided[i - 1]) / torch.where(gap == 0, 1, gap)
        shifted = [torch.zeros_like(at[0]), *basis]
        basis = [a - at[n - 1] * b for a, b in zip(shifted, [*basis, shifted[0]], strict=True)]
        weight = sum((c * m for c, m in zip(basis, moments, strict=False)), torch.zeros_like(at[0]))
        total = total + weight * divided[n]
    return total


def answer(at: Sequence[Tensor], values: Sequence[Tensor], h: Tensor) -> Tensor:
    """DPM-Solver++'s integral of x0_hat over a step, from the newest one to three answers.

    Of two answers the integral is the paper's, (1 - e^-h) times their line's value at h / 2.

    Source:
        Lu et al. 2022, arXiv 2211.01095, Algorithm 2 for two.
    """
    if len(at) == 2:
        slope = (values[0] - values[1]) / torch.where(at[1] == 0, 1, -at[1])
        return -torch.expm1(-h) * (values[0] + h / 2 * slope)
    return integral(at, values, growing(h, len(at)))


class Answers(Solver):
    """y_r = e^-h y + `answer` of the newest `order` answers; a path begins with fewer."""

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
        points = [here, *reversed(history)][: self.order]
        values = [point.x0_hat for point in points]
        y_r = (-h).exp() * y + answer(places(schedule, points, lam), values, h)
        return from_frame(schedule, y_r, r), here.x0_hat
