"""Consistency distillation: a one-step model from a diffusion model."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.losses._pairs import continuous_pairs, grid_pairs
from cmtool.losses.base import PairLoss, Roles, Step


@dataclass(frozen=True)
class CD(PairLoss):
    """lambda(t) d(f(x_t, t), f-(x_r, r)), x_r one solver step of the teacher from x_t.

    On "grid" times, t > r are neighbours on a grid of N levels, all pairs equally likely. On
    "continuous" times ln t is normal and r lies one step of such a grid below t, wherever t is.

    Source:
        Song et al. 2023, arXiv 2303.01469, Algorithm 2: a grid with fixed N. The normal ln t and a
        growing N are Song & Dhariwal 2023, arXiv 2310.14189, Sections 3.4 and 3.5; they double N in
        stages, here it grows by the same factor at every step.

    Args:
        times: "grid" or "continuous".
        levels: N, the number of levels (at the end of training).
        levels_min: N at the start. None keeps N fixed.
        p_mean: Mean of ln sigma for continuous times.
        p_std: Standard deviation of ln sigma for continuous times.
        share_at_max: Share of every batch that starts from pure noise, in [0, 1].
        decay: mu, the target's decay; 0 makes the student its own target.
    """

    needs_teacher_model: ClassVar[bool] = True

    times: Literal["grid", "continuous"] = "grid"
    levels: int = 18
    levels_min: int | None = None
    p_mean: float = -1.1
    p_std: float = 2.0
    share_at_max: float = 0.0
    decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= (self.levels_min or 2) <= self.levels:
            raise ValueError(
                f"needs 2 <= levels_min <= levels, got levels_min={self.levels_min}, "
                f"levels={self.levels}"
            )
        if not self.p_std > 0:
            raise ValueError(f"needs p_std > 0, got p_std={self.p_std}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"needs 0 <= decay < 1, got decay={self.decay}")
        if not 0 <= self.share_at_max <= 1:
            raise ValueError(f"needs 0 <= share_at_max <= 1, got share_at_max={self.share_at_max}")

    def levels_at(self, index: int, total: int) -> float:
        """N(k) = levels_min (levels / levels_min)^(k / (K - 1)), a whole number on a grid."""
        first = self.levels_min or self.levels
        levels: float = first * (self.levels / first) ** (index / max(total - 1, 1))
        return levels if self.times == "continuous" else round(levels)

    def target_decay(self, index: int, total: int) -> float:
        return self.decay

    def describe(self, index: int, total: int) -> dict[str, float]:
        return {"N": self.levels_at(index, total), "mu": self.decay}

    def pairs(self, roles: Roles, step: Step) -> tuple[Tensor, Tensor]:
        schedule = roles.teacher.schedule
        levels = self.levels_at(step.index, step.total)
        at_max = step.rng.position() < self.share_at_max
        if self.times == "grid":
            u = step.rng.rand()
            return grid_pairs(schedule, int(levels), torch.where(at_max, torch.zeros_like(u), u))
        t = schedule.from_sigma((self.p_mean + self.p_std * step.rng.randn()).exp())
        return continuous_pairs(schedule, levels, torch.where(at_max, schedule.t_max, t))
