"""Consistency training: a consistency model from data alone."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from cmtool.losses._pairs import adaptive_decay, grid_pairs, progressive_levels
from cmtool.losses.base import PairLoss, Roles, Step


@dataclass(frozen=True)
class CT(PairLoss):
    """lambda(t) d(f(x + t z, t), f-(x + r z, r)) on neighbouring levels; more levels and a slower
    target as training goes on.

    Source:
        Song et al. 2023, arXiv 2303.01469, Algorithm 3 and Appendix C. `form` says whose mu(k): the
        paper divides by N(k), the released code by N(k) - 1.

    Args:
        levels_min: s0, number of levels at the start.
        levels_max: s1; training ends with s1 + 1 levels.
        decay: mu0, the target's decay at the start.
        form: "paper" or "openai".
    """

    needs_teacher_model: ClassVar[bool] = False

    levels_min: int = 2
    levels_max: int = 150
    decay: float = 0.9
    form: Literal["paper", "openai"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.levels_min <= self.levels_max:
            raise ValueError(
                f"needs 2 <= levels_min <= levels_max, got levels_min={self.levels_min}, "
                f"levels_max={self.levels_max}"
            )
        if not 0 < self.decay < 1:
            raise ValueError(f"needs 0 < decay < 1, got decay={self.decay}")

    def levels(self, index: int, total: int) -> int:
        """N(k)."""
        return progressive_levels(index, total, self.levels_min, self.levels_max)

    def target_decay(self, index: int, total: int) -> float:
        return adaptive_decay(self.levels(index, total), self.levels_min, self.decay, self.form)

    def describe(self, index: int, total: int) -> dict[str, float]:
        return {"N": self.levels(index, total), "mu": self.target_decay(index, total)}

    def pairs(self, roles: Roles, step: Step) -> tuple[Tensor, Tensor]:
        return grid_pairs(
            roles.teacher.schedule, self.levels(step.index, step.total), step.rng.rand()
        )
