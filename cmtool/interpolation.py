"""From one picture to another: both as noisy images of one noise level, the way between them, and
the model's answer to every point of it.

Seeds have their noise. A picture gets one in three ways: `add_noise` (cheap; the higher the noise
level, the less of the picture is left; between two with the same noise the way is `straight`),
`noise_by_ode` (a diffusion model's path backwards) and `noise_by_search` (what a one-step model has
to be given to answer with it).

    x = noise_by_search(model.bind(), model.schedule, pictures, z).x
    frames = interpolate(model.bind(), model.schedule, x[0], x[1], sigma, 9, levels, rng=rng)

Noisy images here are in EDM's frame: image plus noise.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from cmtool.editors.base import Edit, run_edit
from cmtool.schedules.base import Schedule
from cmtool.solvers.base import Noise, Solver, from_frame
from cmtool.tensors import Denoise, expand, rms


class Found(NamedTuple):
    """Noisy images at the largest noise level, (B, *), and how far the model's answer to them is
    from the picture, (B,): root mean square on the scale [-1, 1]."""

    x: Tensor
    error: Tensor


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Goes along the arc from a to b, each image by itself.

        sin((1 - s) w) / sin(w) a + sin(s w) / sin(w) b, with w the angle between a and b

    The angle moves evenly and so, for equal lengths, the length stays. Where there is no one arc,
    between parallel or opposite vectors, it is the straight line.

    Source:
        Song et al. 2023, arXiv 2303.01469, Appendix D; Shoemake 1985.

    Args:
        a: (B, *).
        b: (B, *).
        share: (B,) 0 is a, 1 is b.

    Returns:
        (B, *).
    """
    unit_a, unit_b = (torch.nn.functional.normalize(v.flatten(1), dim=1) for v in (a, b))
    # From the chords: the arc cosine would lose half the digits of small angles.
    chord, other = (unit_a - unit_b).norm(dim=1), (unit_a + unit_b).norm(dim=1)
    angle = 2 * torch.atan2(chord, other)
    sine = angle.sin()
    flat = sine < 1e4 * torch.finfo(sine.dtype).eps
    safe = torch.where(flat, 1, sine)
    of_a = torch.where(flat, 1 - share, ((1 - share) * angle).sin() / safe)
    of_b = torch.where(flat, share, (share * angle).sin() / safe)
    return expand(of_a, a) * a + expand(of_b, b) * b


def add_noise(schedule: Schedule, x: Tensor, z: Tensor, sigma: float) -> Tensor:
    """Pictures with noise of level sigma: (B, *) and (B, *) or (1, *) -> (B, *). With one z for all
    of them the noise stays in place from frame to frame."""
    low = schedule.noise_range[0]
    return x + math.sqrt(max(sigma**2 - low**2, 0)) * z


@torch.no_grad()
def noise_by_ode(
    denoise: Denoise,
    schedule: Schedule,
    solvers: Sequence[Solver],
    x: Tensor,
    times: Tensor,
    *,
    rounds: int = 5,
) -> Tensor:
    """A diffusion model's path backwards, from pictures to noisy images.

    Each step undoes the solver's own step down, so that sampling along the same times comes back to
    the picture. It is found by repetition: what the step down misses is added, `rounds` times. That
    converges where steps are short; with ten evaluations it does not.

    Source:
        Song et al. 2020, arXiv 2011.13456, Section 4.3 (encoding by the ODE).

    Args:
        denoise: The denoiser.
        schedule: What the times mean.
        solvers: One-step methods that draw no noise, one for each interval, as they are sampled
            with.
        x: (B, *) pictures.
        times: (n,) decreasing times, as they are sampled along.
        rounds: Repetitions; each costs every step once more.

    Returns:
        (B, *) noisy images at times[0], in EDM's frame.
    """
    up = [t.expand(len(x)).to(x.device) for t in times.flip(0)]
    y = from_frame(schedule, x, up[0])
    for solver, (r, t) in zip(reversed(solvers), pairwise(up), strict=True):
        y_t, _ = solver.step(denoise, schedule, y, r, t)
        for _ in range(rounds):
            back, _ = solver.step(denoise, schedule, y_t, t, r)
            y_t = y_t + (y - back)
        y = y_t
    return schedule.to_edm(y, up[-1])[0]


def noise_by_search(
    denoise: Denoise,
    schedule: Schedule,
    x: Tensor,
    z: Tensor,
    *,
    steps: int = 500,
    tol: float = 0.01,
    rate: float = 0.05,
) -> Found:
    """The noise to which a one-step model answers with a picture, by gradient descent (Adam, the
    rate falling to zero) from z.

    The noise is kept as long as noise is: the length of d normal numbers is sqrt(d) within 3 in all
    but one of 50,000 draws. So the way between two of them leads through noise, too. The model
    may have no noise for a picture unlike its data; then the error tells.

    Source:
        Kingma & Ba 2014, arXiv 1412.6980 (Adam).

    Args:
        denoise: A consistency function.
        schedule: Its frame.
        x: (B, *) pictures.
        z: (B, *) where to start.
        steps: Evaluations, at most; each comes with a gradient.
        tol: An image's search ends once its error is no more.
        rate: Of the first step.
    """
    sigma = schedule.noise_range[1]
    t = x.new_full((len(x),), schedule.t_max)
    radius = math.sqrt(x[0].numel())
    z = z.to(x).clone().requires_grad_()
    best, error = z.detach().clone(), x.new_full((len(x),), math.inf)
    adam = torch.optim.Adam([z], lr=rate)
    for step in range(steps):
        with torch.enable_grad():
            missed = rms(denoise(from_frame(schedule, sigma * z, t), t).to(x) - x)
            (z.grad,) = torch.autograd.grad(missed.square().sum(), z)
        with torch.no_grad():
            better = (missed < error) & (error > tol)
            best = torch.where(expand(better, z), z, best)
            error = torch.where(better, missed, error)
            if (error <= tol).all():
                break
            adam.param_groups[0]["lr"] = rate * (1 - step / steps)
            adam.step()
            length = z.flatten(1).norm(dim=1)
            z *= expand(length.clamp(radius - 3, radius + 3) / length, z)
    return Found(sigma * best, error)


def interpolate(
    denoise: Denoise,
    schedule: Schedule,
    first: Tensor,
    last: Tensor,
    sigma: float,
    frames: int,
    levels: Sequence[float] = (),
    *,
    rng: Noise,
    straight: bool = False,
) -> Tensor:
    """The model's answers on the way between two noisy images. The first and the last frame are its
    answers to these two.

    Args:
        denoise: A consistency function; a diffusion model becomes one by
            `cmtool.sampling.trajectory_end`.
        schedule: Its frame.
        first: (C, H, W) image plus noise.
        last: (C, H, W).
        sigma: Their noise level.
        frames: How many, both ends among them; at least 2.
        levels: Noise levels that follow; those below sigma are used.
        rng: Noise for them, (frames, *); the same for all frames keeps details in place.
        straight: Whether to go along the line and not the arc. That suits ends with one and the
            same noise: on the arc there would be too much of it in the middle.

    Returns:
        (frames, C, H, W) in [-1, 1].
    """
    if frames < 2:
        raise ValueError(f"needs frames >= 2, got {frames}")
    share = torch.linspace(0, 1, frames, dtype=first.dtype, device=first.device)
    a, b = first.expand(frames, *first.shape), last.expand(frames, *last.shape)
    x = torch.lerp(a, b, expand(share, a)) if straight else slerp(a, b, share)
    edit = Edit(shown=x, start=x, sigma=x.new_full((frames,), sigma))
    return edit.settle(run_edit(denoise, schedule, edit, x.new_tensor(list(levels)), rng=rng))
