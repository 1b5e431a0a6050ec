"""Consistency distillation: a one-step model from a diffusion model."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cmtool.losses._pairs import doubling_levels, grid_pairs
from cmtool.losses.base import PairLoss, Roles, Step


@dataclass(frozen=True)
class CD(PairLoss):
    """lambda(t) d(f(x_t, t), f-(x_r, r)), x_r one solver step of the teacher from x_t, t > r
    neighbours on a grid.

    Source:
        Song et al. 2023, arXiv 2303.01469, Algorithm 2. The paper keeps N fixed; a growing N is the
        curriculum of Song & Dhariwal 2023, arXiv 2310.14189, Section 3.4.

    Args:
        levels: N, the number of levels (at the end of training).
        levels_min: Levels at the start; they double in stages of equal length. None keeps N fixed.
        decay: mu, the target's decay; 0 makes the student its own target.
        share_at_max: Share of every batch that starts from pure noise, in [0, 1]; the rest is
            spread evenly over the levels.
    """

    needs_teacher_model: ClassVar[bool] = True

    levels: int = 18
    levels_min: int | None = None
    decay: float = 0.0
    share_at_max: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= (self.levels_min or 2) <= self.levels:
            raise ValueError(
                f"needs 2 <= levels_min <= levels, got levels_min={self.levels_min}, "
                f"levels={self.levels}"
            )
        if not 0 <= self.decay < 1:
            raise ValueError(f"needs 0 <= decay < 1, got decay={self.decay}")
        if not 0 <= self.share_at_max <= 1:
            raise ValueError(f"needs 0 <= share_at_max <= 1, got share_at_max={self.share_at_max}")

    def levels_at(self, index: int, total: int) -> int:
        """N(k)."""
        if self.levels_min is None:
            return self.levels
        return doubling_levels(index, total, self.levels_min - 1, self.levels - 1)

    def target_decay(self, index: int, total: int) -> float:
        return self.decay

    def describe(self, index: int, total: int) -> dict[str, float]:
        return {"N": self.levels_at(index, total), "mu": self.decay}

    def pairs(self, roles: Roles, step: Step) -> tuple[Tensor, Tensor]:
        u = step.rng.rand()
        u = torch.where(step.rng.position() < self.share_at_max, torch.zeros_like(u), u)
        return grid_pairs(roles.teacher.schedule, self.levels_at(step.index, step.total), u)
