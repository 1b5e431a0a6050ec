"""Data whose denoiser, trajectories and consistency function are known exactly."""

import torch
from torch import Tensor, nn

from cmtool.denoiser import EDM, Consistency, Denoiser
from cmtool.schedules.base import Schedule
from cmtool.tensors import expand

MEAN, VARIANCE = 0.2, 0.36


class Gaussian:
    """Independent pixels N(mean, variance) under any schedule, in the frame y = x / alpha."""

    def __init__(self, schedule: Schedule, mean: float = MEAN, variance: float = VARIANCE) -> None:
        self.schedule, self.mean, self.variance = schedule, mean, variance

    def _frame(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scales = self.schedule(t)
        alpha = expand(scales.alpha, x)
        return x / alpha, expand(scales.sigma, x) / alpha, alpha

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], the posterior mean."""
        y, lam, _ = self._frame(x, t)
        return (self.variance * y + lam**2 * self.mean) / (self.variance + lam**2)

    def flow(self, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Where the probability-flow ODE takes x from t to r."""
        y, lam, _ = self._frame(x, t)
        _, lam_r, alpha_r = self._frame(x, r)
        shrink = ((self.variance + lam_r**2) / (self.variance + lam**2)).sqrt()
        return alpha_r * (self.mean + shrink * (y - self.mean))

    def consistency(self, x: Tensor, t: Tensor) -> Tensor:
        """The exact consistency function: the trajectory's end at t_min."""
        return self.flow(x, t, torch.full_like(t, self.schedule.t_min))


class Exact(nn.Module):
    """A network whose `Denoiser` is a given function: F = (D(x, t) - c_skip x) / c_out."""

    def __init__(self, function, precond) -> None:
        super().__init__()
        self.function, self.precond = function, precond
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, scaled: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        form = getattr(self.precond, "form", self.precond)
        t = (c_noise / form.noise_scale).exp()  # The noise level, as EDM writes it.
        c = self.precond(t)
        x = scaled / expand(c.c_in, scaled)
        raw = (self.function(x, t) - expand(c.c_skip, x) * x) / expand(c.c_out, x)
        return raw + 0 * self.anchor


def model(function, schedule: Schedule, kind: str, shape: tuple[int, int, int]) -> Denoiser:
    """A float64 Denoiser that computes `function(x, t)`, both in EDM's frame."""
    precond = EDM() if kind == "diffusion" else Consistency(boundary=schedule.t_min)
    return Denoiser(Exact(function, precond).double(), precond, schedule, kind, shape).double()
