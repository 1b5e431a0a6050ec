"""UniPC: the answer at a step's end also corrects that step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers._multistep import answer, growing, integral, places
from cmtool.solvers.base import Noise, Point, Solver, from_frame, level, to_frame
from cmtool.tensors import Denoise


@dataclass(frozen=True)
class UniPC(Solver):
    """A predictor of order p, DPM-Solver++(pM), and a corrector that uses the next answer too.

    The corrector is the step once more, with the polynomial through one more answer: that at the
    step's end. It needs no evaluation of its own, for the next step begins with this answer; so
    `step` first corrects the step that led to x. The last step of a path stays uncorrected. A path
    begins with the lower p; its first step is corrected with the mean of both answers.

    Source:
        Zhao et al. 2023, arXiv 2302.04867, Algorithms 1 and 2 with B_2(h) = e^h - 1 (their bh2) for
        the denoiser's answers. B_2 matters for p = 2's predictor and p = 1's corrector alone.

    Args:
        predictor: p, 1 to 3; the method's order is p + 1.
    """

    predictor: Literal[1, 2, 3] = 3
    nfe: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.predictor not in (1, 2, 3):
            raise ValueError(f"predictor is 1, 2 or 3, got {self.predictor}")

    @property
    def order(self) -> int:
        return self.predictor + 1

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
        past = list(reversed(history))[: self.predictor]
        if past:
            y = y + _correction(schedule, past, here, lam)
        points = [here, *past][: self.predictor]
        values = [point.x0_hat for point in points]
        y_r = (-h).exp() * y + answer(places(schedule, points, lam), values, h)
        return from_frame(schedule, y_r, r), here.x0_hat


def _correction(schedule: Schedule, past: list[Point], here: Point, lam: Tensor) -> Tensor:
    """What the last step, from past[0] to here, adds when it learns of the answer here."""
    before = level(schedule, past[0].t, lam)
    h = (before / lam).log()
    at, values = places(schedule, past, before), [point.x0_hat for point in past]
    if len(past) == 1:
        better = growing(h, 1)[0] * (values[0] + here.x0_hat) / 2
    else:
        better = integral([*at, h], [*values, here.x0_hat], growing(h, len(at) + 1))
    return better - answer(at, values, h)
