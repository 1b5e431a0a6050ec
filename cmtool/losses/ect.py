"""Easy consistency tuning: a diffusion model becomes a consistency model, step by step."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.losses._pairs import shrinking_gap
from cmtool.losses.base import PairLoss, PrecondName, Roles, Step, Weighting
from cmtool.tensors import Batch


@dataclass(frozen=True)
class ECT(PairLoss):
    """lambda(t) d(f(x + t z, t), f(x + r z, r)) with lognormal t and an r(t) that nears t in
    stages; where r = 0 the target is x itself, as in training a denoiser.

    The student starts from a diffusion model (`--init`) and keeps its form, `denoiser.precond =
    "edm"`, which is the identity at t = 0. What is sampled is what was trained; the published
    evaluation shifts the boundary: precond "consistency" with boundary 0.003 in the finished
    checkpoint's recipe.

    Source:
        Geng et al. 2024, arXiv 2406.14548, Section 3, and the released code. Its two variants: for
        CIFAR-10 huber_c 0 and weighting "inverse-gap"; for ImageNet-64 huber_c 0.06 and weighting
        "karras", which is (t^2 + sigma_data^2) / (t sigma_data)^2.

    Args:
        huber_c: c of the pseudo-Huber distance; 0 makes it the norm.
        weighting: lambda(t).
        stages: Number of stages, of equal length.
        q: The gap 1 - r/t shrinks by this factor at every stage, from 1/q on.
        mapping: Whether the gap is the same for all t, "const", or wider towards the data,
            "sigmoid": times 1 + k sigmoid(-b t).
        k: How much wider.
        b: How fast that falls with t.
        p_mean: Mean of ln t.
        p_std: Standard deviation of ln t.
    """

    needs_teacher_model: ClassVar[bool] = False
    precond: ClassVar[PrecondName] = "edm"

    huber_c: float | None = 0.0
    weighting: Weighting = "inverse-gap"
    stages: int = 8
    q: float = 2.0
    mapping: Literal["const", "sigmoid"] = "sigmoid"
    k: float = 8.0
    b: float = 1.0
    p_mean: float = -1.1
    p_std: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # Narrower gaps would be lost in float32's rounding of t - r.
        if not (self.stages >= 1 and 1 < self.q**self.stages <= 1e5):
            raise ValueError(
                f"needs stages >= 1 and 1 < q^stages <= 1e5, got q={self.q}, stages={self.stages}"
            )
        if not (self.k >= 0 and self.b >= 0):
            raise ValueError(f"needs k >= 0 and b >= 0, got k={self.k}, b={self.b}")
        if not self.p_std > 0:
            raise ValueError(f"needs p_std > 0, got p_std={self.p_std}")

    def stage_at(self, index: int, total: int) -> int:
        """The stage of a step, 0 .. stages - 1."""
        return min(index * self.stages // total, self.stages - 1)

    def describe(self, index: int, total: int) -> dict[str, float]:
        return {"stage": self.stage_at(index, total)}

    def pairs(self, roles: Roles, step: Step) -> tuple[Tensor, Tensor]:
        share = self.q ** -(self.stage_at(step.index, step.total) + 1)
        t = (self.p_mean + self.p_std * step.rng.randn()).exp()
        r = shrinking_gap(t, share, self.mapping, self.k, self.b)
        schedule = roles.teacher.schedule
        return schedule.from_sigma(t), schedule.from_sigma(r)

    def outputs(
        self, roles: Roles, batch: Batch, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As the base's, but where r = 0 the target is x, without a call."""
        (x_t, t), (x_r, r) = start, end
        noisy = r > 0
        if noisy.all():
            return super().outputs(roles, batch, start, end)
        f_t, f_r = torch.zeros_like(x_t), batch.x.clone()
        # In two parts, so that student and target drop the same units here too.
        clean = ~noisy
        f_t[clean] = roles.student.for_batch(batch.rows(clean))(x_t[clean], t[clean])
        if noisy.any():
            pair = (x_t[noisy], t[noisy]), (x_r[noisy], r[noisy])
            f_t[noisy], f_r[noisy] = super().outputs(roles, batch.rows(noisy), *pair)
        return f_t, f_r
