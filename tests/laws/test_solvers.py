"""Laws of every solver, on data whose ODE is solved exactly: one Gaussian, and two points."""

import math
from collections import deque
from itertools import pairwise

import pytest
import torch
from torch import nn

from cmtool import recipe, registry
from cmtool.denoiser import Denoiser
from cmtool.errors import RecipeError
from cmtool.networks.tiny import Tiny
from cmtool.preconditioner import EDM
from cmtool.schedules.karras import Karras
from cmtool.solvers.ancestral import Ancestral
from cmtool.solvers.base import MEMORY, Point
from cmtool.solvers.churn import Churn
from cmtool.solvers.deis import DEIS
from cmtool.solvers.dpm_solver_fast import DPMSolverFast
from cmtool.solvers.dpmpp_2m import DPMpp2M
from cmtool.solvers.dpmpp_3m import DPMpp3M
from cmtool.solvers.euler import Euler
from cmtool.solvers.heun import Heun
from cmtool.solvers.midpoint import Midpoint
from cmtool.solvers.unipc import UniPC
from cmtool.workflows._draw import draw, plan_for
from tests.oracles import Gaussian

SHAPE = (2, 1, 2, 2)
NAMES = registry.names("solvers")
QUIET = {"ancestral": Ancestral(eta=0.0), "churn": Churn(s_churn=0.0)}
"""The stochastic solvers without noise: ODE solvers like the others."""
SOLVERS = [QUIET.get(name) or registry.load("solvers", name)() for name in NAMES]
SOLVERS += [Midpoint("cubic"), DPMSolverFast(1), DPMSolverFast(2), DEIS(1), DEIS(2)]
SOLVERS += [UniPC(1), UniPC(2)]
MULTISTEP = (DPMpp2M, DPMpp3M, DEIS, UniPC)


class TwoPoints:
    """Pixels that are -1 or 1, in EDM's frame."""

    schedule = Karras()

    def denoise(self, x, t):
        return torch.tanh(x / t.reshape(-1, 1, 1, 1) ** 2)

    def distribution(self, x, t):
        t = t.reshape(-1, 1, 1, 1)
        return (torch.special.ndtr((x - 1) / t) + torch.special.ndtr((x + 1) / t)) / 2

    def flow(self, x, t, r):
        """The ODE moves quantiles, F_r^-1(F_t(x)); by bisection."""
        quantile = self.distribution(x, t)
        low, high = torch.full_like(x, -50.0), torch.full_like(x, 50.0)
        for _ in range(80):
            middle = (low + high) / 2
            above = self.distribution(middle, r) > quantile
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2


class Silence:
    """Noise that is zero."""

    def randn(self, shape):
        return torch.zeros(SHAPE[0], *shape)


@pytest.fixture(params=SOLVERS, ids=str)
def solver(request):
    return request.param


@pytest.fixture(params=registry.names("schedules"))
def schedule(request):
    return registry.load("schedules", request.param)()


def _walk(solver, oracle, n, levels, *, exact_start):
    """The largest error after n steps between two noise levels; the history, if there is to be one,
    is of exact points at the same spacing before the first."""
    schedule = oracle.schedule
    start, end = schedule.from_sigma(torch.tensor(levels, dtype=torch.float64))
    warped = schedule.warp(start), schedule.warp(end)
    back = warped[0] + (warped[0] - warped[1]) * MEMORY / n
    times = schedule.between(schedule.unwarp(back), end, n + MEMORY + 1)[:, None].expand(-1, 2)
    torch.manual_seed(0)
    x0, z = torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)
    first = times[MEMORY]
    x = begin = schedule.perturb(x0.sign() if isinstance(oracle, TwoPoints) else x0, z, first)
    history = deque(maxlen=MEMORY)
    for t in times[:MEMORY] if exact_start else ():
        past = oracle.flow(begin, first, t)
        history.append(Point(t, past, oracle.denoise(past, t)))
    for t, r in pairwise(times[MEMORY:]):
        x_r, x0_hat = solver.step(oracle.denoise, schedule, x, t, r, history=history, rng=Silence())
        history.append(Point(t, x, x0_hat))
        x = x_r
    return (x - oracle.flow(begin, first, times[-1])).abs().max()


def _order(solver, oracle, n, levels, *, exact_start=True):
    coarse, fine = (_walk(solver, oracle, k, levels, exact_start=exact_start) for k in (n, 2 * n))
    return math.log2(coarse / fine)


# Pixels of several variances, for the error of a single one may pass through zero.
VARIANCES = torch.tensor([[0.1, 0.36], [1.0, 3.0]], dtype=torch.float64)


def test_observed_order_is_the_declared_one(solver, schedule):
    """Of multistep methods, with an exact history to start from."""
    found = _order(solver, Gaussian(schedule, variance=VARIANCES), 64, (3.0, 0.5))
    assert found == pytest.approx(solver.order, abs=0.2)


def test_observed_order_down_to_small_noise(solver):
    found = _order(solver, Gaussian(Karras(), variance=VARIANCES), 96, (3.0, 0.1))
    assert found == pytest.approx(solver.order, abs=0.2)


def test_observed_order_on_two_points_is_the_declared_one(solver):
    """A nonlinear ODE, whose truth is the transport of quantiles."""
    found = _order(solver, TwoPoints(), 128, (3.0, 0.5))
    assert found == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("solver", [s for s in SOLVERS if isinstance(s, MULTISTEP)], ids=str)
def test_order_with_the_usual_start(solver):
    """A first step of Euler's leaves order two; UniPC corrects that step and has three."""
    expected = min(solver.order, 3 if isinstance(solver, UniPC) else 2)
    found = _order(solver, TwoPoints(), 128, (1.0, 0.5), exact_start=False)
    assert found == pytest.approx(expected, abs=0.2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Churn(s_churn=0.0), Heun()),
        (Ancestral(eta=0.0), Euler()),
        (DPMSolverFast(1), Euler()),
        (DPMSolverFast(2), Midpoint()),
        (DEIS(1), Euler()),
    ],
    ids=str,
)
def test_methods_that_are_the_same_agree(one, other, schedule):
    x, (t, r) = 5 * torch.randn(SHAPE).double(), schedule.grid(10)[[3, 4], None].expand(2, 2)
    denoise = Gaussian(schedule).denoise
    ours = one.step(denoise, schedule, x, t, r, rng=Silence())
    theirs = other.step(denoise, schedule, x, t, r)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_counts_its_evaluations_honestly_and_returns_the_first_answer(solver, schedule):
    oracle, answers = Gaussian(schedule), []

    def counted(x, t):
        answers.append(oracle.denoise(x, t))
        return answers[-1]

    t, r = schedule.grid(10)[[3, 4], None].expand(2, 2)
    x = torch.randn(SHAPE).double()
    _, x0_hat = solver.step(counted, schedule, x, t, r, rng=Silence())
    assert len(answers) == solver.nfe
    assert x0_hat is answers[0]


def test_a_step_to_the_same_time_is_the_identity(solver, schedule):
    """Also where the path stood still before."""
    x, t = torch.randn(SHAPE, dtype=torch.float64), schedule.grid(10)[3].expand(2)
    denoise = Gaussian(schedule).denoise
    for history in ((), [Point(t, x, denoise(x, t))] * MEMORY):
        out, _ = solver.step(denoise, schedule, x, t, t, history=history, rng=Silence())
        torch.testing.assert_close(out, x, rtol=0, atol=1e-13)


def test_every_image_has_its_own_times(solver, schedule):
    """Two images with two pairs of times step as they would alone."""
    oracle, grid = Gaussian(schedule), schedule.grid(10)
    x, t, r = torch.randn(SHAPE).double(), grid[[2, 5]], grid[[3, 8]]
    before = [
        Point(s, x + k, oracle.denoise(x, s)) for k, s in ((2, grid[[0, 3]]), (1, grid[[1, 4]]))
    ]

    def step(rows):
        history = [Point(*(part[rows] for part in point)) for point in before]
        rng = type("Rows", (), {"randn": lambda self, shape: torch.zeros(len(x[rows]), *shape)})()
        return solver.step(
            oracle.denoise, schedule, x[rows], t[rows], r[rows], history=history, rng=rng
        )[0]

    both = step(slice(0, 2))
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], step(slice(i, i + 1)), rtol=0, atol=1e-14)


# Evaluations.


def _model():
    torch.manual_seed(0)
    network = Tiny(width=8, patch=2, blocks=1).build(4, 1, 0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.15)
    return Denoiser(network, EDM(), Karras(), "diffusion", (1, 4, 4)).eval()


@pytest.mark.parametrize("name", NAMES)
def test_steps_is_the_number_of_evaluations(name):
    model, calls = _model(), []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    for nfe in (*range(1, 14), 20):
        calls.clear()
        plan = plan_for(model, nfe, solver=name)
        assert torch.isfinite(draw(model, plan, range(2), seed=0)[0]).all()
        assert len(calls) == nfe == plan.nfe
    plan = plan_for(model, times=[80.0, 5.0, 0.5, 0.1], solver=name)
    calls.clear()
    draw(model, plan, range(2), seed=0)
    assert len(calls) == plan.nfe == 3 * registry.load("solvers", name)().nfe + 1


@pytest.mark.parametrize(
    ("nfe", "orders"),
    [(0, []), (1, [1]), (2, [2]), (3, [2, 1]), (4, [3, 1]), (5, [3, 2]), (9, [3, 3, 2, 1])],
)
def test_dpm_solver_fast_splits_as_its_paper_does(nfe, orders):
    assert [member.order for member in DPMSolverFast().path(nfe, Euler())] == orders


@pytest.mark.parametrize(
    ("name", "nfe", "split"),
    [
        ("heun", 10, "4 heun steps, 1 euler steps, noise"),
        ("midpoint", 9, "4 midpoint steps, noise"),
        ("churn", 4, "1 churn steps, 1 euler steps, noise"),
        ("dpmpp-3m", 10, "9 dpmpp-3m steps, noise"),
        (
            *("dpm-solver-fast", 10),
            "2 dpm-solver-fast steps of order 3, 1 dpm-solver-fast steps of order 2, "
            "1 dpm-solver-fast steps of order 1, noise",
        ),
    ],
)
def test_the_split_is_printed(name, nfe, split):
    assert f"NFE {nfe} ({split}" in str(plan_for(_model(), nfe, solver=name))


def test_churn_learns_how_many_levels_there_are():
    """EDM divides S_churn by them."""
    plan = plan_for(_model(), 35, solver="churn")
    assert {solver.steps for solver in plan.solvers} == {len(plan.times)} == {18}


# Stochastic solvers.


class Numbers:
    """One number as noise for every pixel, or fresh normal ones."""

    def __init__(self, value=None):
        self.value = value

    def randn(self, shape):
        return (
            torch.randn(2, *shape).double()
            if self.value is None
            else torch.full((2, *shape), self.value)
        )


def _moments(solver, schedule, n):
    """Mean and variance after n steps from sigma 3 to 0.1, carried exactly through each affine
    step; x starts as the noisy data itself."""
    oracle = Gaussian(schedule)
    ends = schedule.from_sigma(torch.tensor([3.0, 0.1], dtype=torch.float64))
    times = schedule.between(ends[0], ends[1], n + 1)[:, None].expand(-1, 2)
    solver = solver.among(n + 1)
    scales = schedule(times[0, 0])
    mean = scales.alpha * oracle.mean
    variance = scales.alpha**2 * oracle.variance + scales.sigma**2

    def step(x, z, t, r):
        x = torch.full((2, 1), float(x), dtype=torch.float64)
        return solver.step(oracle.denoise, schedule, x, t, r, rng=Numbers(z))[0][0, 0]

    for t, r in pairwise(times):
        still = step(0, 0.0, t, r)
        gain, noise = step(1, 0.0, t, r) - still, step(0, 1.0, t, r) - still
        mean, variance = gain * mean + still, gain**2 * variance + noise**2
    scales = schedule(times[-1, 0])
    truth = scales.alpha * oracle.mean, scales.alpha**2 * oracle.variance + scales.sigma**2
    return mean, variance, truth


@pytest.mark.parametrize(
    "solver", [Ancestral(), Ancestral(0.5), Churn(20.0, 0.0, 99.0, 1.0)], ids=str
)
def test_stochastic_solvers_keep_the_marginals_at_their_order(solver, schedule):
    """The noise that is added and the noise that is removed balance: mean and variance are those of
    the noisy data, up to an error that shrinks with the solver's order."""
    errors = []
    for n in (64, 128):
        mean, variance, truth = _moments(solver, schedule, n)
        errors.append((abs(mean - truth[0]) / truth[0], abs(variance - truth[1]) / truth[1]))
    assert max(errors[1]) < 5 / 128
    for coarse, fine in zip(*errors, strict=True):
        if coarse > 1e-9:
            assert math.log2(coarse / fine) == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("name", ["ancestral", "churn"])
def test_drawn_moments_are_the_closed_form(name):
    """One step on Gaussian data, written out: it is affine in x and in the noise."""
    oracle, n, t, r = Gaussian(Karras()), 200_000, 2.0, 1.0
    solver = {"ancestral": Ancestral(0.7), "churn": Churn(5.0, 0.0, 9.0, 1.1, steps=20)}[name]
    v, m = oracle.variance, oracle.mean

    def slope(s):  # Of (y - D) / s against y - m.
        return s / (v + s**2)

    if name == "ancestral":
        noise = 0.7 * (r**2 * (t**2 - r**2) / t**2) ** 0.5
        gain = 1 + ((r**2 - noise**2) ** 0.5 - t) * slope(t)
    else:
        s = t * 1.25
        h = r - s
        gain = 1 + h / 2 * (slope(s) + slope(r) * (1 + h * slope(s)))
        noise = gain * 1.1 * (s**2 - t**2) ** 0.5
    torch.manual_seed(0)
    x = 1.5 + 0.3 * torch.randn(n, 1, dtype=torch.float64)
    rng = type("Rng", (), {"randn": lambda self, shape: torch.randn(n, *shape).double()})()
    times = (torch.full((n,), at, dtype=torch.float64) for at in (t, r))
    out, _ = solver.step(oracle.denoise, Karras(), x, *times, rng=rng)
    variance = (gain * 0.3) ** 2 + noise**2
    # 4 standard errors.
    assert float(out.mean()) == pytest.approx(m + gain * (1.5 - m), abs=4 * (variance / n) ** 0.5)
    assert float(out.var()) == pytest.approx(variance, rel=4 * (2 / n) ** 0.5)


@pytest.mark.parametrize("solver", [Ancestral(), Churn()], ids=str)
def test_stochastic_solvers_ask_for_noise(solver):
    t = torch.tensor([2.0, 2.0])
    with pytest.raises(ValueError, match="needs rng"):
        solver.step(Gaussian(Karras()).denoise, Karras(), torch.zeros(SHAPE), t, t / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Midpoint("middle"), "log or cubic"),
        (lambda: DPMSolverFast(4), "1, 2 or 3"),
        (lambda: DEIS(0), "1, 2 or 3"),
        (lambda: UniPC(4), "1, 2 or 3"),
        (lambda: Ancestral(1.5), r"0 \.\. 1"),
        (lambda: Churn(-1.0), "s_churn >= 0"),
    ],
)
def test_fields_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["ancestral", "churn", "unipc"])
def test_an_image_does_not_depend_on_its_batch(name):
    """Its noise along the way has its own stream too."""
    model = _model()
    plan = plan_for(model, 9, solver=name)
    whole, _ = draw(model, plan, range(5), seed=3)
    for i in range(5):
        torch.testing.assert_close(
            draw(model, plan, [i], seed=3)[0], whole[[i]], rtol=2e-5, atol=2e-6
        )
    assert not torch.equal(whole, draw(model, plan, range(5), seed=4)[0])


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("midpoint", "middle", "cubic"),
        ("dpm-solver-fast", "stages", 2),
        ("deis", "order", 2),
        ("unipc", "predictor", 1),
        ("ancestral", "eta", 0.5),
        ("churn", "s_churn", 30.0),
    ],
)
def test_fields_are_recipe_keys(name, field, value):
    text = "[data]\nname = 'digits'\n[loss]\nname = 'cd'\n[network]\nname = 'tiny'\n"
    settings = [f"solver.name={name}", f"solver.{field}={value}"]
    made = recipe.parse(text, "x.toml", settings).solver
    assert getattr(made, field) == value
    assert type(made)() != made
    with pytest.raises(RecipeError, match=f"solver.{field}"):
        recipe.parse(text, "x.toml", [settings[0], f"solver.{field}=what"])
