"""Laws of every solver in the registry, on Gaussian data whose ODE is solved exactly."""

import math
from itertools import pairwise

import pytest
import torch

from cmtool import registry
from tests.oracles import Gaussian

SHAPE = (2, 1, 2, 2)


@pytest.fixture(params=registry.names("solvers"))
def solver(request):
    return registry.load("solvers", request.param)()


@pytest.fixture(params=registry.names("schedules"))
def schedule(request):
    return registry.load("schedules", request.param)()


def _walk(solver, schedule, oracle, n, start, end):
    torch.manual_seed(0)
    times = schedule.between(torch.tensor(start).double(), torch.tensor(end).double(), n + 1)
    x0 = torch.randn(SHAPE, dtype=torch.float64)
    first = times[0].expand(2)
    x = begin = schedule.perturb(x0, torch.randn_like(x0), first)
    for t, r in pairwise(times):
        x, _ = solver.step(oracle.denoise, schedule, x, t.expand(2), r.expand(2))
    return (x - oracle.flow(begin, first, times[-1].expand(2))).abs().max()


def test_observed_order_is_the_declared_one(solver, schedule):
    oracle = Gaussian(schedule)
    grid = schedule.grid(40)
    start, end = float(grid[8]), float(grid[24])
    coarse = _walk(solver, schedule, oracle, 64, start, end)
    fine = _walk(solver, schedule, oracle, 128, start, end)
    assert math.log2(coarse / fine) == pytest.approx(solver.order, abs=0.15)


def test_counts_its_evaluations_honestly(solver, schedule):
    calls = []
    oracle = Gaussian(schedule)

    def counted(x, t):
        calls.append(t)
        return oracle.denoise(x, t)

    t, r = schedule.grid(10)[3].expand(2), schedule.grid(10)[4].expand(2)
    solver.step(counted, schedule, torch.randn(SHAPE).double(), t, r)
    assert len(calls) == solver.nfe


def test_a_step_to_the_same_time_is_the_identity(solver, schedule):
    x = torch.randn(SHAPE, dtype=torch.float64)
    t = schedule.grid(10)[3].expand(2)
    out, _ = solver.step(Gaussian(schedule).denoise, schedule, x, t, t)
    torch.testing.assert_close(out, x, rtol=0, atol=1e-14)


def test_every_image_has_its_own_times(solver, schedule):
    """Two images with two pairs of times step as they would alone."""
    oracle, grid = Gaussian(schedule), schedule.grid(10)
    x, t, r = torch.randn(SHAPE).double(), grid[[2, 5]], grid[[3, 8]]
    both, _ = solver.step(oracle.denoise, schedule, x, t, r)
    for i in range(2):
        one = slice(i, i + 1)
        alone, _ = solver.step(oracle.denoise, schedule, x[one], t[one], r[one])
        torch.testing.assert_close(both[one], alone, rtol=0, atol=0)
