"""Improved consistency training: a consistency model from data alone, without a slow target."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cmtool.losses._pairs import doubling_levels, lognormal_pairs
from cmtool.losses.base import PairLoss, Roles, Step, Weighting


@dataclass(frozen=True)
class ICT(PairLoss):
    """1/(t - r) d(f(x + t z, t), f(x + r z, r)) on neighbouring levels whose number doubles in
    stages; the pairs follow a discretised lognormal.

    The student is its own target (mu = 0). Dropout and a noise embedding of low sensitivity are the
    network's options.

    Source:
        Song & Dhariwal 2023, arXiv 2310.14189, Table 1 and Section 3.

    Args:
        weighting: lambda(t).
        levels_min: s0; training starts with s0 + 1 levels.
        levels_max: s1; training ends with s1 + 1 levels.
        p_mean: Mean of ln t before it is put on the grid.
        p_std: Standard deviation of ln t.
    """

    needs_teacher_model: ClassVar[bool] = False

    weighting: Weighting = "inverse-gap"
    levels_min: int = 10
    levels_max: int = 1280
    p_mean: float = -1.1
    p_std: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.levels_min <= self.levels_max:
            raise ValueError(
                f"needs 1 <= levels_min <= levels_max, got levels_min={self.levels_min}, "
                f"levels_max={self.levels_max}"
            )
        if not self.p_std > 0:
            raise ValueError(f"needs p_std > 0, got p_std={self.p_std}")

    def levels(self, index: int, total: int) -> int:
        """N(k)."""
        return doubling_levels(index, total, self.levels_min, self.levels_max)

    def describe(self, index: int, total: int) -> dict[str, float]:
        return {"N": self.levels(index, total)}

    def pairs(self, roles: Roles, step: Step) -> tuple[Tensor, Tensor]:
        levels = self.levels(step.index, step.total)
        return lognormal_pairs(
            roles.teacher.schedule, levels, self.p_mean, self.p_std, step.rng.rand()
        )
