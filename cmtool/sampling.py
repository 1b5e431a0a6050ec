"""Sampling: Algorithm 1 for consistency models, the probability-flow ODE for diffusion models."""

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cmtool.rng import SeedRng
from cmtool.schedules.base import Schedule
from cmtool.solvers.base import MEMORY, Noise, Point, Solver
from cmtool.tensors import Denoise


def start_noise(schedule: Schedule, rng: SeedRng, shape: Sequence[int], t: Tensor) -> Tensor:
    """Pure noise at time t (0-d), the start of every sampler: (n, *shape), in t's dtype."""
    z = rng.randn(shape).to(t.dtype)
    return schedule(t.to(z.device)).sigma * z


@torch.no_grad()
def sample_consistency(
    denoise: Denoise,
    schedule: Schedule,
    x: Tensor,
    times: Tensor,
    *,
    rng: SeedRng,
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Draws with a consistency model, one network evaluation for each time.

    Source:
        Song et al. 2023, arXiv 2303.01469, Algorithm 1; with `project`, Algorithm 4.

    Args:
        denoise: The consistency function.
        schedule: What the times mean.
        x: (B, *) noisy images at times[0].
        times: (n,) decreasing times; the output of the last is returned un-noised.
        rng: Re-noises between evaluations; not used when n is 1.
        project: Applied to every estimate, (B, *) -> (B, *).

    Returns:
        (B, *) images, in x's dtype.
    """
    for i, t in enumerate(times):
        if i > 0:
            z = rng.randn(x.shape[1:]).to(x)
            x = schedule.renoise(x, z, t.expand(len(x)).to(x.device))
        x = denoise(x, t.expand(len(x)).to(x.device)).to(x)
        if project is not None:
            x = project(x)
    return x


@torch.no_grad()
def sample_ode(
    denoise: Denoise,
    schedule: Schedule,
    solvers: Sequence[Solver],
    x: Tensor,
    times: Tensor,
    *,
    finish: bool = True,
    rng: Noise | None = None,
) -> Tensor:
    """Solves a diffusion model's probability-flow ODE, then removes the noise that is left at the
    last time.

    Source:
        Karras et al. 2022, arXiv 2206.00364, Algorithm 1; its last Euler step to zero noise is that
        removal.

    Args:
        denoise: The denoiser.
        schedule: What the times mean.
        solvers: One for each interval, len(times) - 1.
        x: (B, *) noisy images at times[0].
        times: (n,) decreasing times.
        finish: Whether to remove that noise, with one more evaluation.
        rng: Noise for stochastic solvers.

    Returns:
        (B, *) images, in x's dtype.
    """
    steps = [t.expand(len(x)).to(x.device) for t in times]
    history: deque[Point] = deque(maxlen=MEMORY)
    for solver, t, r in zip(solvers, steps[:-1], steps[1:], strict=True):
        x_r, x0_hat = solver.step(denoise, schedule, x, t, r, history=history, rng=rng)
        history.append(Point(t, x, x0_hat))
        x = x_r.to(x)
    return (denoise(x, steps[-1]) if finish else schedule.to_edm(x, steps[-1])[0]).to(x)
