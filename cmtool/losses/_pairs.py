"""Which two times a loss compares, and the curricula over training. Pure functions, so resuming
needs no state."""

import math

import torch
from torch import Tensor

from cmtool.schedules.base import Schedule


def grid_pairs(schedule: Schedule, levels: int, u: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbours t > r on a grid of `levels` times, all N - 1 pairs equally likely, from uniform u
    (B,) in [0, 1)."""
    grid = schedule.grid(levels).to(u)
    index = (u * (levels - 1)).long()
    return grid[index], grid[index + 1]


def continuous_pairs(schedule: Schedule, levels: float, t: Tensor) -> tuple[Tensor, Tensor]:
    """Times t (B,), brought into the schedule's range, and r one step of a grid of `levels` below.

    Times within a hundredth of such a step from t_min are moved up to it, so that t > r always.
    """
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    low, high = schedule.warp(ends).tolist()
    step = (high - low) / (levels - 1)
    warped = schedule.warp(t).clamp(low + step / 100, high)
    return schedule.unwarp(warped), schedule.unwarp((warped - step).clamp(min=low))


def progressive_levels(index: int, total: int, levels_min: int, levels_max: int) -> int:
    """N(k) = ceil(sqrt(k/K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1: from s0 to s1 + 1 levels.

    Source:
        Song et al. 2023, arXiv 2303.01469, Appendix C.

    Example:
        >>> [progressive_levels(k, 800_000, 2, 200) for k in (0, 1, 100_000, 799_999)]
        [2, 3, 72, 201]
    """
    growth = (levels_max + 1) ** 2 - levels_min**2
    return max(math.ceil(math.sqrt(index / total * growth + levels_min**2) - 1), 1) + 1


def doubling_levels(index: int, total: int, levels_min: int, levels_max: int) -> int:
    """N(k) = min(s0 2^floor(k/K'), s1) + 1: doubles in stages of equal length.

    Source:
        Song & Dhariwal 2023, arXiv 2310.14189, Section 3.4.

    Example:
        >>> [doubling_levels(k, 400_000, 10, 1280) for k in (0, 50_000, 399_999)]
        [11, 21, 1281]
    """
    stages = int(math.log2(levels_max // levels_min)) + 1
    length = max(total // stages, 1)
    return int(min(levels_min * 2 ** (index // length), levels_max)) + 1


def adaptive_decay(levels: int, levels_min: int, decay: float, form: str) -> float:
    """mu(k) = exp(s0 ln(mu0) / N(k)); the released code divides by N(k) - 1.

    Source:
        Song et al. 2023, arXiv 2303.01469, Appendix C ("paper"); the released code ("openai").

    Example:
        >>> [round(adaptive_decay(2, 2, 0.95, form), 4) for form in ("paper", "openai")]
        [0.95, 0.9025]
    """
    return math.exp(levels_min * math.log(decay) / (levels if form == "paper" else levels - 1))
