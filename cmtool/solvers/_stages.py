"""What the one-step methods share: the denoiser and its slope in the solvers' frame."""

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.solvers.base import from_frame, level, to_frame
from cmtool.tensors import Denoise


def slope_at(denoise: Denoise, schedule: Schedule, y: Tensor, lam: Tensor) -> Tensor:
    """dy / dlambda at y and lambda, (B, *) and (B, 1, ...); one evaluation."""
    t = schedule.from_sigma(lam.flatten())
    return (y - denoise(from_frame(schedule, y, t), t)) / lam


def heun_step(
    denoise: Denoise, schedule: Schedule, x: Tensor, t: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    """An Euler step, then the mean of the slopes at both ends: images at r, x0_hat at t."""
    y, lam = to_frame(schedule, x, t)
    lam_r = level(schedule, r, x)
    x0_hat = denoise(x, t)
    # Euler step.
    slope = (y - x0_hat) / lam
    y_r = y + (lam_r - lam) * slope
    # Second-order correction.
    slope_r = (y_r - denoise(from_frame(schedule, y_r, r), r)) / lam_r
    return from_frame(schedule, y + (lam_r - lam) * (slope + slope_r) / 2, r), x0_hat
