"""The multistep solvers against diffusers' schedulers, on the same noise levels."""

from itertools import pairwise

import pytest
import torch

from cmtool.schedules.karras import Karras
from cmtool.solvers.base import Point
from cmtool.solvers.deis import DEIS
from cmtool.solvers.dpmpp_2m import DPMpp2M
from cmtool.solvers.dpmpp_3m import DPMpp3M
from cmtool.solvers.unipc import UniPC

diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
# diffusers, on numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
LEVELS = Karras(sigma_min=0.01, sigma_max=50.0).grid(21)


def two_points(y, t):
    """The denoiser of pixels that are -0.8 or 0.8."""
    return 0.8 * torch.tanh(0.8 * y / t.reshape(-1, 1, 1, 1) ** 2)


def _start():
    torch.manual_seed(0)
    return LEVELS[0] * torch.randn(2, 3, 4, 4, dtype=torch.float64)


def ours(solver, denoise=two_points):
    """The path in EDM's frame."""
    path, history = [_start()], []
    for t, r in pairwise(LEVELS):
        t, r = t.expand(2), r.expand(2)
        y, x0_hat = solver.step(denoise, Karras(), path[-1], t, r, history=history)
        history.append(Point(t, path[-1], x0_hat))
        path.append(y)
    return torch.stack(path[1:])


def theirs(scheduler, denoise=two_points):
    """The path of a scheduler, which walks x = y / sqrt(1 + sigma^2)."""
    scheduler.set_timesteps(len(LEVELS) - 1)
    scheduler.sigmas, scheduler._step_index = LEVELS, 0
    alphas, path = (1 + LEVELS**2).rsqrt(), []
    x = _start() * alphas[0]
    for i, t in enumerate(scheduler.timesteps):
        x0_hat = denoise(x / alphas[i], LEVELS[i].expand(2))
        x = scheduler.step(x0_hat, t, x).prev_sample
        path.append(x / alphas[i + 1])
    return torch.stack(path)


def _close(found, expected):
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-4
    # The last, smallest images too.
    assert (found[-1] - expected[-1]).abs().max() <= 1e-4


OPTIONS = {"prediction_type": "sample", "lower_order_final": False}


def _multistep(order, **options):
    return diffusers.DPMSolverMultistepScheduler(solver_order=order, **OPTIONS, **options)


def test_dpmpp_2m():
    _close(ours(DPMpp2M()), theirs(_multistep(2)))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order):
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order, **OPTIONS)
    _close(ours(DEIS(order)), theirs(scheduler))


@pytest.mark.parametrize("predictor", [1, 2, 3])
def test_unipc(predictor):
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=predictor, solver_type="bh2", **OPTIONS
    )
    _close(ours(UniPC(predictor)), theirs(scheduler))


def test_dpmpp_3m_differs_by_half_the_curvature():
    """Ours has the curvature's whole weight; half of it is diffusers' path."""

    class Halved(DPMpp3M):
        def step(self, denoise, schedule, x, t, r, *, history=(), rng=None):
            whole, x0_hat = super().step(denoise, schedule, x, t, r, history=history)
            if len(history) < 2:
                return whole, x0_hat
            (t2, _, d2), (t1, _, d1) = history[-2:]
            h, h0, h1 = ((a[0] / b[0]).log() for a, b in ((t, r), (t1, t), (t2, t1)))
            curvature = ((x0_hat - d1) / h0 - (d1 - d2) / h1) / (h0 + h1)
            return whole - (h**2 / 2 - h - torch.expm1(-h)) * curvature, x0_hat

    scheduler = _multistep(3)
    _close(ours(Halved()), theirs(scheduler))
    assert (ours(DPMpp3M()) - theirs(scheduler)).abs().max() > 1e-3
