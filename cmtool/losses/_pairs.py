"""Which two times a loss compares, and the curricula over training. Pure functions, so resuming
needs no state."""

import math
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from cmtool.losses.base import Stage
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


def lognormal_shares(sigma: Tensor, p_mean: float, p_std: float) -> Tensor:
    """Share of a lognormal's mass between neighbours of decreasing noise levels (n,): (n - 1,)."""
    below = torch.erf((sigma.log() - p_mean) / (math.sqrt(2) * p_std))
    mass = below[:-1] - below[1:]
    return mass / mass.sum()


def lognormal_pairs(
    schedule: Schedule, levels: int, p_mean: float, p_std: float, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Neighbours t > r on a grid of `levels` times with the shares of a lognormal, from uniform u
    (B,) in [0, 1).

    Source:
        Song & Dhariwal 2023, arXiv 2310.14189, Section 3.5.
    """
    grid = schedule.grid(levels)
    ends = lognormal_shares(schedule.sigma(grid), p_mean, p_std).cumsum(0).to(u)
    # The last end may round to less than 1.
    index = torch.searchsorted(ends, u, right=True).clamp(max=levels - 2)
    grid = grid.to(u)
    return grid[index], grid[index + 1]


def shrinking_gap(t: Tensor, share: float, mapping: str, k: float, b: float) -> Tensor:
    """r(t) = max(t - share t n(t), 0) with n = 1 ("const") or 1 + k sigmoid(-b t) ("sigmoid"), t
    and r as noise levels: (B,) -> (B,).

    Source:
        Geng et al. 2024, arXiv 2406.14548, Section 3.

    Example:
        >>> t = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
        >>> [round(float(r), 3) for r in shrinking_gap(t, 0.125, "sigmoid", 8, 1)]
        [0.04, 0.606, 4.342]
    """
    gap = share * t if mapping == "const" else share * t * (1 + k * torch.sigmoid(-b * t))
    return (t - gap).clamp(min=0)


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
    stages = math.log2(levels_max // levels_min) + 1
    length = max(int(total / stages), 1)
    return int(min(levels_min * 2 ** (index // length), levels_max)) + 1


def halving_stages(intervals: int, total: int, length: int | None) -> list[Stage]:
    """The stages of progressive distillation, N = `intervals` and then half of it each time.

    Each has `length` steps, those with N = 2 and 1 twice as many; the last takes what is left of
    `total`. None makes the stages as long as they fit.

    Source:
        Song et al. 2023, arXiv 2303.01469, the released code.

    Example:
        >>> [stage.first for stage in halving_stages(64, 450_000, 50_000)]
        [0, 50000, 100000, 150000, 200000, 250000, 350000]
    """
    counts = [intervals]
    while counts[-1] > 1:
        counts.append(counts[-1] // 2)
    units = [2 if n <= 2 else 1 for n in counts]
    length = length or max(total // sum(units), 1)
    ends = [length * n for n in accumulate(units, initial=0)]
    ends[-1] = max(ends[-1], total)
    return [Stage(*span, n) for span, n in zip(pairwise(ends), counts, strict=True)]


def adaptive_decay(levels: int, levels_min: int, decay: float, form: str) -> float:
    """mu(k) = exp(s0 ln(mu0) / N(k)); the released code divides by N(k) - 1.

    Source:
        Song et al. 2023, arXiv 2303.01469, Appendix C ("paper"); the released code ("openai").

    Example:
        >>> [round(adaptive_decay(2, 2, 0.95, form), 4) for form in ("paper", "openai")]
        [0.95, 0.9025]
    """
    return math.exp(levels_min * math.log(decay) / (levels if form == "paper" else levels - 1))
