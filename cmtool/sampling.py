"""Sampling: Algorithm 1 for consistency models, the probability-flow ODE for diffusion models."""

import math
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
    rng: Noise,
    gamma: float = 1.0,
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Draws with a consistency model, one network evaluation for each time.

    From one time to the next an estimate is brought back to noise. `gamma` says what the noise is
    made of: that which the estimate itself finds in x_t, z_hat, and fresh noise z,

        sqrt(1 - gamma^2) z_hat + gamma z.

    A consistency trajectory model goes to sqrt(1 - gamma^2) t along the trajectory; a consistency
    model knows only its end, so the line from the end through x_t stands for the trajectory here.
    With gamma < 1 the images at the next time spread too widely: z_hat depends on the estimate,
    and the noise of a noisy image does not depend on the image.

    Source:
        Song et al. 2023, arXiv 2303.01469, Algorithm 1; with `project`, Algorithm 4. gamma as in
        Kim et al. 2023, arXiv 2310.02279, Algorithm 3; z_hat for the jump as in Song et al. 2020,
        arXiv 2010.02502 (DDIM), Eq. 12.

    Args:
        denoise: The consistency function.
        schedule: What the times mean.
        x: (B, *) noisy images at times[0].
        times: (n,) decreasing times, or (n, B) those of each image; the output of the last is
            returned un-noised.
        rng: Re-noises between evaluations; not used when n is 1 or gamma 0.
        gamma: 1 is Algorithm 1, 0 draws no noise after the first.
        project: Applied to every estimate, (B, *) -> (B, *).

    Returns:
        (B, *) images, in x's dtype.
    """
    steps = [t.expand(x.shape[0]).to(x.device) for t in times]
    x0_hat = x
    for i, t in enumerate(steps):
        if i > 0:
            z = gamma * rng.randn(x.shape[1:]).to(x) if gamma > 0 else torch.zeros_like(x)
            if gamma < 1:
                z += math.sqrt(1 - gamma**2) * schedule.noise_in(x0_hat, x, steps[i - 1])
            x = schedule.renoise(x0_hat, z, t)
        x0_hat = denoise(x, t).to(x)
        if project is not None:
            x0_hat = project(x0_hat)
    return x0_hat


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
        times: (n,) decreasing times, or (n, B) those of each image.
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


def trajectory_end(denoise: Denoise, schedule: Schedule, solvers: Sequence[Solver]) -> Denoise:
    """A diffusion model in the place of a consistency function: x_t to the end of the trajectory
    through it, by the ODE.

    Args:
        denoise: The denoiser.
        schedule: What the times mean.
        solvers: The steps from t down to t_min; one more evaluation removes the noise left there.
            With none the answer is the denoiser's own.
    """

    def end(x: Tensor, t: Tensor) -> Tensor:
        times = t[None]
        if solvers:
            times = schedule.between(t, torch.full_like(t, schedule.t_min), len(solvers) + 1)
        return sample_ode(denoise, schedule, solvers, x, times)

    return end
