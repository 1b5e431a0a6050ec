"""Progressive distillation: each student does in one Euler step what its teacher does in two."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cmtool.denoiser import Kind
from cmtool.losses._distance import DistanceName, distance
from cmtool.losses._pairs import halving_stages
from cmtool.losses.base import (
    Loss,
    LossOutput,
    PrecondName,
    Roles,
    Stage,
    Step,
    Weighting,
    weight,
)
from cmtool.tensors import Batch, expand


@dataclass(frozen=True)
class PD(Loss):
    """lambda(t) d(D(x_t, t), target), on a grid of N intervals: an Euler step with the target goes
    from t to r, the next level, as two Euler steps of the teacher through the level between do.

    In stages: N halves, the student becomes the teacher, and the student's optimizer, averages and
    learning rate start anew; for the published rate set `train.lr_decay = "linear"`. The student
    stays a diffusion model, without a boundary, and is sampled by Euler's method on its last grid.

    Source:
        Salimans & Ho 2022, arXiv 2202.00512, Algorithm 2; for EDM's denoiser and levels Song et al.
        2023, arXiv 2303.01469, Section 6.1, and the released code.

    Args:
        distance: How two outputs are compared.
        huber_c: c of the pseudo-Huber distance, see `cd`.
        weighting: lambda(t).
        intervals: N in the first stage; a power of two, else the grids of two stages do not nest.
        stage_steps: Length of a stage; the last two, with N = 2 and 1, are twice as long. None fits
            the stages into the training.
    """

    needs_teacher_model: ClassVar[bool] = True
    kind: ClassVar[Kind] = "diffusion"
    precond: ClassVar[PrecondName] = "edm"

    distance: DistanceName = "l2"
    huber_c: float | None = None
    weighting: Weighting = "truncated-snr"
    intervals: int = 4096
    stage_steps: int | None = None

    def __post_init__(self) -> None:
        if self.huber_c is not None and not self.huber_c >= 0:
            raise ValueError(f"needs huber_c >= 0, got huber_c={self.huber_c}")
        if not self.intervals >= 1:
            raise ValueError(f"needs intervals >= 1, got intervals={self.intervals}")
        if self.stage_steps is not None and not self.stage_steps >= 1:
            raise ValueError(f"needs stage_steps >= 1, got stage_steps={self.stage_steps}")

    def stage(self, index: int, total: int) -> Stage:
        stages = halving_stages(self.intervals, total, self.stage_steps)
        return next((stage for stage in stages if index < stage.end), stages[-1])

    def describe(self, index: int, total: int) -> dict[str, float]:
        return {"N": self.stage(index, total).intervals}

    def __call__(self, roles: Roles, batch: Batch, step: Step) -> LossOutput:
        x, schedule = batch.x, roles.teacher.schedule
        intervals = self.stage(step.index, step.total).intervals
        u = step.rng.rand()
        first = 2 * (u * intervals).long()
        levels = schedule.grid(2 * intervals + 1).to(u)
        t, middle, r = levels[first], levels[first + 1], levels[first + 2]
        x_t = schedule.perturb(x, step.rng.randn(*x.shape[1:]), t)
        with torch.no_grad():
            target = self._target(roles, batch, x_t, (t, middle, r))
        out = roles.student.for_batch(batch)(x_t, t)
        sigma, sigma_r = schedule.sigma(t), schedule.sigma(r)
        weights = weight(self.weighting, sigma, sigma_r, roles.student.precond.sigma_data)
        loss = weights * distance(self.distance, out, target, self.huber_c)
        return LossOutput(loss, sigma, self.describe(step.index, step.total))

    def _target(
        self, roles: Roles, batch: Batch, x_t: Tensor, times: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """The answer with which one Euler step t -> r does what the teacher's two do.

        With its answers D1, D2 and the levels l > m > s of the times it is D1 + (D2 - D1) l (m - s)
        / (m (l - s)); as x - l dx/dl with the slope of both steps, which is the same, it cancels.
        """
        teacher, (t, middle, _) = roles.teacher, times
        first, z = teacher.split(x_t, t, batch)
        second, _ = teacher.split(teacher.schedule.perturb(first, z, middle), middle, batch)
        l, m, s = (teacher.schedule.sigma(time) for time in times)
        return first + expand(l * (m - s) / (m * (l - s)), x_t) * (second - first)
