"""Laws of every loss in the registry, and the closed forms of consistency distillation."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from cmtool import registry
from cmtool.denoiser import EDM, Consistency, Denoiser, LogWeight
from cmtool.losses._pairs import (
    adaptive_decay,
    continuous_pairs,
    doubling_levels,
    progressive_levels,
)
from cmtool.losses.base import Roles, Step
from cmtool.losses.cd import CD
from cmtool.networks.tiny import Tiny
from cmtool.rng import StepRng
from cmtool.schedules.karras import Karras
from cmtool.solvers.euler import Euler
from cmtool.solvers.heun import Heun
from cmtool.teacher import Teacher
from cmtool.tensors import Batch
from tests.oracles import Gaussian, model

SHAPE = (1, 8, 8)
SOLVERS = {"euler": Euler(), "heun": Heun()}


@pytest.fixture(params=registry.names("losses"))
def loss(request):
    return registry.load("losses", request.param)()


def _denoiser(kind, seed=0, dropout=0.0, precond=None):
    torch.manual_seed(seed)
    network = Tiny(width=16, patch=1, dropout=dropout).build(8, 1, 0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    precond = precond or (EDM() if kind == "diffusion" else Consistency())
    return Denoiser(network, precond, Karras(), kind, SHAPE)


def _student(loss, seed=1, dropout=0.0):
    precond = EDM() if loss.precond == "edm" else None
    student = _denoiser(loss.kind, seed, dropout, precond)
    if loss.learns_weight:
        student.log_weight = LogWeight()
    return student


def _roles(loss, dropout=0.0):
    student = _student(loss, dropout=dropout)
    teacher = _denoiser("diffusion", 2).eval().requires_grad_(False)
    if not loss.needs_teacher_model:
        return Roles(student, student, Teacher(Karras(), Euler()))
    return Roles(student, student, Teacher(Karras(), Heun(), teacher))


def _step(n, index=0, total=10, seed=0, rows=None):
    return Step(index, total, StepRng(seed, index, n, rows or slice(0, n)))


def test_loss_is_one_finite_number_an_image(loss):
    out = loss(_roles(loss), Batch(torch.rand(5, *SHAPE) * 2 - 1), _step(5))
    assert out.loss.shape == out.sigma.shape == (5,)
    assert out.loss.isfinite().all()
    assert (out.loss >= 0).all()


def test_any_split_of_a_batch_sees_the_same_numbers(loss):
    roles, x = _roles(loss), torch.rand(6, *SHAPE) * 2 - 1
    whole = loss(roles, Batch(x), _step(6)).loss
    parts = [
        loss(roles, Batch(x[rows]), _step(6, rows=rows)).loss for rows in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-7)


def test_only_the_student_gets_gradients(loss):
    student, teacher = _student(loss), _denoiser("diffusion", 2)
    target = _denoiser(loss.kind, 3)
    needs = loss.needs_teacher_model
    roles = Roles(student, target, Teacher(Karras(), Euler(), teacher if needs else None))
    loss(roles, Batch(torch.rand(4, *SHAPE)), _step(4)).loss.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for m in (target, teacher) for p in m.parameters())


def test_bf16_stays_finite_and_close(loss):
    roles, batch = _roles(loss), Batch(torch.rand(16, *SHAPE) * 2 - 1)
    exact = loss(roles, batch, _step(16)).loss.detach()
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(roles, batch, _step(16)).loss.detach()
    assert rough.dtype == torch.float32
    assert rough.isfinite().all()
    assert rough.mean() == pytest.approx(float(exact.mean()), rel=0.1)


@dataclass(frozen=True)
class FixedCD(CD):
    """CD on one pair (t, t - h)."""

    t: float = 2.0
    h: float = 0.1

    def pairs(self, roles, step):
        t = torch.full((step.rng.rand().shape[0],), self.t, dtype=torch.float64)
        return t, t - self.h


def _residual(function, solver, h):
    """Root mean square of f(x_t, t) - f(x_r, r), x_r from one solver step of the exact teacher."""
    schedule = Karras()
    oracle = Gaussian(schedule)
    exact = model(oracle.denoise, schedule, "diffusion", SHAPE)
    student = model(function(oracle), schedule, "consistency", SHAPE)
    torch.manual_seed(0)
    x = oracle.mean + oracle.variance**0.5 * torch.randn(8, *SHAPE, dtype=torch.float64)
    roles = Roles(student, student, Teacher(schedule, solver, exact))
    return FixedCD("l2", h=h)(roles, Batch(x), _step(8)).loss.mean().sqrt().item()


@pytest.mark.parametrize("name", SOLVERS)
def test_cd_residual_of_the_exact_function_shrinks_with_order_plus_one(name):
    solver = SOLVERS[name]
    coarse, fine = (_residual(lambda o: o.consistency, solver, h) for h in (0.05, 0.025))
    assert math.log2(coarse / fine) == pytest.approx(solver.order + 1, abs=0.1)


@pytest.mark.parametrize("name", SOLVERS)
def test_cd_residual_of_a_slightly_wrong_function_does_not(name):
    wrong = lambda o: lambda x, t: o.consistency(x, t) + 0.05 * t[:, None, None, None]  # noqa: E731
    coarse, fine = (_residual(wrong, SOLVERS[name], h) for h in (0.05, 0.025))
    assert math.log2(coarse / fine) == pytest.approx(1, abs=0.1)
    assert fine > 0.5 * 0.05 * 0.025


def test_dsm_is_least_at_the_exact_denoiser():
    """The mean weighted loss of D + a grows by exactly the weighted a^2."""
    schedule, loss = Karras(), registry.load("losses", "dsm")()
    oracle = Gaussian(schedule)
    torch.manual_seed(0)
    x = oracle.mean + oracle.variance**0.5 * torch.randn(4000, 1, 2, 2, dtype=torch.float64)

    def mean(shift):
        function = lambda x, t: oracle.denoise(x, t) + shift  # noqa: E731
        student = model(function, schedule, "diffusion", (1, 2, 2))
        roles = Roles(student, student, Teacher(schedule, Euler()))
        out = loss(roles, Batch(x), _step(len(x)))
        weight = out.sigma**-2 + 4
        return (out.loss / weight).mean().item()

    best, higher, lower = mean(0.0), mean(0.05), mean(-0.05)
    assert (higher + lower) / 2 - best == pytest.approx(0.05**2, rel=1e-3)
    # The first-order term vanishes: the two sides differ by sampling noise alone.
    assert abs(higher - lower) / 2 < 0.3 * 0.05**2


@pytest.mark.parametrize("name", ["cd", "ct"])
def test_student_and_target_drop_the_same_units(name):
    """Where t = r the two calls are the same function of the same input, dropout included."""
    loss = registry.load("losses", name)("l2")
    roles = _roles(loss, dropout=0.5)
    roles.student.train()
    object.__setattr__(loss, "pairs", lambda roles, step: (torch.full((4,), 2.0),) * 2)
    out = loss(roles, Batch(torch.rand(4, *SHAPE)), _step(4))
    assert out.loss.max() < 1e-10
    roles.student.train()
    x = torch.rand(4, *SHAPE)
    assert (roles.student(x, 2.0) - roles.student(x, 2.0)).abs().max() > 1e-3


def test_share_at_max_starts_exactly_that_share_from_pure_noise():
    for times in ("grid", "continuous"):
        loss = CD("l2", share_at_max=0.25, levels=1000, times=times, p_mean=-2.0, p_std=0.5)
        t, r = loss.pairs(_roles(loss), _step(64))
        assert (t > 79.99).sum() in (16, 17)
        assert (r < t).all()


@pytest.mark.parametrize("name", registry.names("schedules"))
def test_continuous_pairs_are_one_grid_step_apart_wherever_they_are(name):
    """From a time of the grid, the next one is the grid's own."""
    schedule = registry.load("schedules", name)()
    grid = schedule.grid(12)
    t, r = continuous_pairs(schedule, 12, grid[:-1])
    torch.testing.assert_close(t, grid[:-1])
    torch.testing.assert_close(r, grid[1:], rtol=1e-9, atol=1e-12)
    t, r = continuous_pairs(schedule, 5.5, torch.tensor([1e-9, 1e9], dtype=torch.float64))
    assert t[1] == pytest.approx(schedule.t_max)
    assert r[0] == pytest.approx(schedule.t_min)
    assert (r < t).all()


def test_number_of_levels_grows_by_one_factor_and_hits_its_ends():
    loss = CD(times="continuous", levels=32, levels_min=2)
    n = [loss.levels_at(k, 5) for k in range(5)]
    assert n == pytest.approx([2, 4, 8, 16, 32])
    assert CD(levels=20).levels_at(3, 5) == 20
    assert CD(levels=9, levels_min=2).levels_at(1, 3) == round(math.sqrt(18))


def test_grid_pairs_are_neighbours_and_all_occur():
    loss = CD(levels=6)
    t, r = loss.pairs(_roles(loss), _step(4000))
    grid = Karras().grid(6).float()
    index = [(grid == value).nonzero().item() for value in t[:500]]
    assert torch.equal(r[:500], grid[[i + 1 for i in index]])
    counts = torch.stack([(t == level).sum() for level in grid[:-1]])
    assert (counts - 800).abs().max() < 5 * math.sqrt(4000 * 0.2 * 0.8)


@pytest.mark.parametrize(
    ("k", "decay", "levels"),
    [
        (0, 0.9025, 2),
        (1, 0.95, 3),
        (1_000, 0.985452, 8),
        (10_000, 0.995348, 23),
        (100_000, 0.998556, 72),
        (400_000, 0.999278, 143),
        (799_999, 0.999487, 201),
    ],
)
def test_curriculum_equals_the_released_codes_table(k, decay, levels):
    assert progressive_levels(k, 800_000, 2, 200) == levels
    assert adaptive_decay(levels, 2, 0.95, "openai") == pytest.approx(decay, abs=5e-7)


def test_curricula_rise_and_hit_their_ends():
    n = [progressive_levels(k, 1000, 2, 150) for k in range(1000)]
    assert n == sorted(n)
    assert (n[0], n[-1]) == (2, 151)
    m = [doubling_levels(k, 400_000, 10, 1280) for k in range(0, 400_000, 50_000)]
    assert m == [11, 21, 41, 81, 161, 321, 641, 1281]
    assert adaptive_decay(3, 2, 0.9, "paper") == pytest.approx(0.9 ** (2 / 3))


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"levels": 1}, "2 <= levels_min <= levels"),
        ({"levels": 4, "levels_min": 8}, "2 <= levels_min <= levels"),
        ({"decay": 1.0}, "0 <= decay < 1"),
        ({"share_at_max": 1.5}, "0 <= share_at_max <= 1"),
        ({"huber_c": -0.1}, "huber_c >= 0"),
    ],
)
def test_cd_refuses_wrong_settings(bad, text):
    with pytest.raises(ValueError, match=text):
        CD(**bad)
