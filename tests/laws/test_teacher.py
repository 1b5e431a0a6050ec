"""Laws of the teacher."""

import pytest
import torch

from cmtool import registry
from cmtool.errors import RecipeError
from cmtool.sampling import sample_ode
from cmtool.schedules.karras import Karras
from cmtool.solvers.ancestral import Ancestral
from cmtool.solvers.churn import Churn
from cmtool.solvers.deis import DEIS
from cmtool.solvers.dpmpp_2m import DPMpp2M
from cmtool.solvers.dpmpp_3m import DPMpp3M
from cmtool.solvers.euler import Euler
from cmtool.solvers.heun import Heun
from cmtool.solvers.unipc import UniPC
from cmtool.teacher import Teacher
from cmtool.tensors import Batch, expand
from tests.oracles import Gaussian, model

SHAPE = (3, 1, 4, 4)


def test_data_with_euler_gives_the_pair_of_consistency_training():
    schedule = Karras()
    x, z = torch.randn(SHAPE).double(), torch.randn(SHAPE).double()
    t, r = schedule.grid(18)[[0, 8, 15]], schedule.grid(18)[[1, 9, 17]]
    x_r = Teacher(schedule, Euler()).step(schedule.perturb(x, z, t), t, r, Batch(x))
    torch.testing.assert_close(x_r, schedule.perturb(x, z, r), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", registry.names("schedules"))
def test_velocity_equals_the_finite_difference(name):
    """Of the exact flow for a model, of perturb for the data."""
    schedule = registry.load("schedules", name)()
    oracle = Gaussian(schedule)
    exact = model(Gaussian(Karras()).denoise, schedule, "diffusion", SHAPE[1:])
    x, z, t = (
        torch.randn(SHAPE).double(),
        torch.randn(SHAPE).double(),
        schedule.grid(18)[[2, 8, 14]],
    )
    x_t, h = schedule.perturb(x, z, t), 1e-5 * t
    found = Teacher(schedule, Euler(), exact).velocity(x_t, t, Batch(x))
    ahead, behind = oracle.flow(x_t, t, t + h), oracle.flow(x_t, t, t - h)
    torch.testing.assert_close(found, (ahead - behind) / (2 * expand(h, x)), rtol=1e-6, atol=1e-7)
    found = Teacher(schedule, Euler()).velocity(x_t, t, Batch(x))
    ahead, behind = schedule.perturb(x, z, t + h), schedule.perturb(x, z, t - h)
    torch.testing.assert_close(found, (ahead - behind) / (2 * expand(h, x)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("substeps", [1, 2, 4])
def test_substeps_bring_the_step_closer_to_the_exact_flow(substeps):
    schedule, batch = Karras(), Batch(torch.zeros(SHAPE))
    oracle = Gaussian(schedule)
    exact = model(oracle.denoise, schedule, "diffusion", SHAPE[1:])
    x, t, r = (
        torch.randn(SHAPE).double() * 5,
        *schedule.grid(10)[[3, 5]].repeat_interleave(3).split(3),
    )
    truth = oracle.flow(x, t, r)

    def error(n):
        return (
            (Teacher(schedule, Heun(), exact, substeps=n).step(x, t, r, batch) - truth).abs().max()
        )

    # Heun's global order is 2: twice the sub-steps, a quarter of the error (at least a third here).
    assert error(2 * substeps) < error(substeps) / 3


@pytest.mark.parametrize("solver", [DPMpp2M(), DPMpp3M(), DEIS(), UniPC()], ids=str)
def test_substeps_share_a_history(solver):
    """So the second is no first-order step any more: four leave less than four of Euler's do, and
    they are the path that sampling takes."""
    schedule, batch = Karras(), Batch(torch.zeros(SHAPE))
    oracle = Gaussian(schedule)
    exact = model(oracle.denoise, schedule, "diffusion", SHAPE[1:])
    x, (t, r) = torch.randn(SHAPE).double() * 5, schedule.grid(10)[[3, 4], None].expand(2, 3)
    truth = oracle.flow(x, t, r)

    def found(solver, substeps):
        return Teacher(schedule, solver, exact, substeps=substeps).step(x, t, r, batch).detach()

    def error(solver, substeps):
        return float((found(solver, substeps) - truth).abs().max())

    assert error(solver, 1) == pytest.approx(error(Euler(), 1))
    assert error(solver, 4) < error(Euler(), 4) / 3
    times = schedule.between(t[0], r[0], 5)
    walked = sample_ode(oracle.denoise, schedule, [solver] * 4, x, times, finish=False)
    torch.testing.assert_close(found(solver, 4), walked, rtol=0, atol=1e-10)


@pytest.mark.parametrize("solver", [Ancestral(), Churn()], ids=str)
def test_a_teacher_refuses_a_solver_that_adds_noise(solver):
    with pytest.raises(RecipeError, match="adds noise"):
        Teacher(Karras(), solver)
