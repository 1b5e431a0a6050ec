"""Closed forms of the discrete losses on Gaussian data, by quadrature.

Every image is one pixel, so that x and z need few Gauss-Hermite nodes and an expectation is a sum
that is exact to rounding for polynomials.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from cmtool import registry
from cmtool.denoiser import EDM, Consistency, Denoiser
from cmtool.losses._distance import distance
from cmtool.losses._pairs import doubling_levels, lognormal_pairs, lognormal_shares, shrinking_gap
from cmtool.losses.base import Roles, Step, weight
from cmtool.losses.cd import CD
from cmtool.losses.ct import CT
from cmtool.losses.ect import ECT
from cmtool.losses.ict import ICT
from cmtool.losses.pd import PD
from cmtool.networks.tiny import Tiny
from cmtool.rng import StepRng
from cmtool.schedules.karras import Karras
from cmtool.schedules.trigflow import TrigFlow
from cmtool.solvers.euler import Euler
from cmtool.teacher import Teacher
from cmtool.tensors import Batch
from tests.oracles import Gaussian, model

KARRAS = Karras()
ORACLE = Gaussian(KARRAS)
nodes, shares = np.polynomial.hermite_e.hermegauss(24)
NODES, SHARES = torch.from_numpy(nodes), torch.from_numpy(shares / shares.sum())


class Draws:
    """Chosen numbers in place of random ones: uniform u, then normal numbers in order."""

    def __init__(self, *normals, u=None):
        self.normals, self.u = iter(normals), u

    def randn(self, *shape):
        return next(self.normals)

    def rand(self):
        return self.u


def joint():
    """(x, z, weight) for every pair of nodes of the data and of the noise."""
    x, z = (v.reshape(-1, 1, 1, 1) for v in torch.meshgrid(NODES, NODES, indexing="ij"))
    return ORACLE.mean + ORACLE.variance**0.5 * x, z, torch.outer(SHARES, SHARES).flatten()


def posterior(x_t, t):
    """(x, z, weight) for nodes of the data given one noisy pixel."""
    one = torch.ones(1, dtype=torch.float64)
    mean = ORACLE.denoise(x_t * one.reshape(1, 1, 1, 1), t * one)
    std = math.sqrt(ORACLE.variance * t**2 / (ORACLE.variance + t**2))
    x = mean + std * NODES.reshape(-1, 1, 1, 1)
    return x, (x_t - x) / t, SHARES


def exact(x, t):
    """The consistency function whose boundary is at 0."""
    return ORACLE.flow(x, t, torch.zeros_like(t))


def wrong(x, t):
    return exact(x, t) + 0.05 * t.reshape(-1, 1, 1, 1)


def gradient(loss, function, quadrature, draws=(), teacher=None, step=(0, 1), at=None):
    """Expected gradient with respect to (a, b, c) of a student `function + a + b x + c sin(x)`.

    `at` fixes the pair (t, r); else the loss draws it, with `draws` before the noise.
    """
    x, z, shares = quadrature
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    learned = lambda x, t: function(x, t) + theta[0] + theta[1] * x + theta[2] * x.sin()  # noqa: E731
    student = model(learned, KARRAS, "diffusion", (1, 1, 1))
    if at is not None:
        pair = tuple(torch.full((len(x),), time, dtype=torch.float64) for time in at)
        object.__setattr__(loss, "pairs", lambda roles, step: pair)
    roles = Roles(student, student, Teacher(KARRAS, Euler(), teacher))
    out = loss(roles, Batch(x), Step(*step, Draws(*draws, z))).loss
    return torch.autograd.grad((shares * out).sum(), theta)[0]


def order(coarse, fine, factor=2.0):
    return (coarse.abs() / fine.abs()).log() / math.log(factor)


# ct and cd.


def test_ct_mean_residual_over_the_posterior_is_h_squared():
    """The gradient with respect to a constant is twice the mean residual."""
    t, h = 2.0, 0.02

    def residual(function, h):
        return gradient(CT("l2"), function, posterior(1.3, t), at=(t, t - h))[0] / 2

    assert order(residual(exact, h), residual(exact, h / 2)).item() == pytest.approx(2, abs=0.02)
    assert order(residual(wrong, h), residual(wrong, h / 2)).item() == pytest.approx(1, abs=0.02)
    assert residual(wrong, h) > 10 * residual(exact, h).abs()


@pytest.mark.parametrize(
    "function", [exact, wrong, lambda x, t: 0.7 * x + 0.3 * t.reshape(-1, 1, 1, 1)]
)
def test_ct_has_cds_expected_gradient_for_every_affine_function(function):
    """With Euler's method and the exact teacher, also where the function is wrong."""
    teacher = model(ORACLE.denoise, KARRAS, "diffusion", (1, 1, 1))
    ct = gradient(CT("l2"), function, joint(), at=(2.0, 1.8))
    cd = gradient(CD("l2"), function, joint(), teacher=teacher, at=(2.0, 1.8))
    torch.testing.assert_close(ct, cd, rtol=1e-10, atol=1e-13)
    # A constant is not seen by the exact function: its residuals of both signs are equally likely.
    assert cd[1:].abs().min() > 1e-4


def test_ct_has_it_for_no_other():
    bent = lambda x, t: exact(x, t) + 0.3 * x**2  # noqa: E731
    teacher = model(ORACLE.denoise, KARRAS, "diffusion", (1, 1, 1))
    ct = gradient(CT("l2"), bent, joint(), at=(2.0, 1.8))
    cd = gradient(CD("l2"), bent, joint(), teacher=teacher, at=(2.0, 1.8))
    assert (ct - cd).abs().max() > 1e-3


ODE_SOLVERS = [
    name for name in registry.names("solvers") if not registry.load("solvers", name).stochastic
]


@pytest.mark.parametrize("name", ODE_SOLVERS)
def test_cd_takes_any_solver_and_several_substeps(name):
    """n steps of a method of order p leave 1 / n^p of one step's residual. A multistep method's
    first step, which has no history, is Euler's, and the order of what follows two at least."""
    solver = registry.load("solvers", name)()
    multistep = solver.nfe == 1 < solver.order
    teacher = model(ORACLE.denoise, KARRAS, "diffusion", (1, 1, 1))
    student = model(ORACLE.consistency, KARRAS, "consistency", (1, 1, 1))
    x, z, shares = joint()
    pair = tuple(torch.full((len(x),), time, dtype=torch.float64) for time in (2.0, 1.8))

    def residual(substeps):
        loss = CD("l2")
        object.__setattr__(loss, "pairs", lambda roles, step: pair)
        roles = Roles(student, student, Teacher(KARRAS, solver, teacher, substeps=substeps))
        return (shares * loss(roles, Batch(x), Step(0, 1, Draws(z))).loss).sum().sqrt()

    for substeps in (2, 4):
        found = order(residual(1), residual(substeps), substeps)
        if multistep:
            assert found > 2 - 0.1
        else:
            assert found.item() == pytest.approx(solver.order, abs=0.1)


@pytest.mark.parametrize(("form", "first", "last"), [("paper", 0.95, 201), ("openai", 0.9025, 200)])
def test_form_of_mu_is_an_option(form, first, last):
    """The paper divides by N(k), the released code by N(k) - 1."""
    loss = CT(levels_max=200, decay=0.95, form=form)
    assert loss.target_decay(0, 800_000) == pytest.approx(first)
    assert loss.target_decay(799_999, 800_000) == pytest.approx(0.95 ** (2 / last))


# ict.


def test_ict_levels_double_in_eight_stages():
    loss, total = ICT(), 400_000
    found = [loss.levels(k, total) for k in range(0, total, 50_000)]
    assert found == [11, 21, 41, 81, 161, 321, 641, 1281]
    assert [loss.levels(k, total) for k in (49_999, 50_000, 399_999)] == [11, 21, 1281]
    assert loss.target_decay(0, total) == 0


@pytest.mark.parametrize(("low", "high"), [(10, 1280), (10, 30), (4, 100), (7, 7)])
@pytest.mark.parametrize("total", [5, 1000, 12_345])
def test_doubling_is_the_papers_formula(low, high, total):
    length = max(math.floor(total / (math.log2(math.floor(high / low)) + 1)), 1)
    for k in range(0, total, max(total // 50, 1)):
        assert doubling_levels(k, total, low, high) == min(low * 2 ** (k // length), high) + 1


@pytest.mark.parametrize("schedule", [KARRAS, TrigFlow()])
@pytest.mark.parametrize("levels", [11, 1281])
def test_ict_pairs_follow_the_discretised_lognormal(schedule, levels):
    """Evenly spread uniforms give each pair its share of images, exact to one image."""
    n = 200_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    t, r = lognormal_pairs(schedule, levels, -1.1, 2.0, u)
    sigma = schedule.sigma(schedule.grid(levels)).tolist()
    phi = [math.erf((math.log(s) + 1.1) / (math.sqrt(2) * 2.0)) for s in sigma]
    expected = [(a - b) / (phi[0] - phi[-1]) for a, b in pairwise(phi)]
    shares = lognormal_shares(schedule.sigma(schedule.grid(levels)), -1.1, 2.0)
    assert shares.tolist() == pytest.approx(expected, rel=1e-6)
    index = torch.searchsorted(-schedule.grid(levels), -t)
    torch.testing.assert_close(t, schedule.grid(levels)[index])
    torch.testing.assert_close(r, schedule.grid(levels)[index + 1])
    found = torch.bincount(index, minlength=levels - 1)
    assert (found - n * shares).abs().max() <= 1


def test_the_last_uniform_gives_the_last_pair():
    u = torch.tensor([0.0, 1 - 2**-24])
    t, r = lognormal_pairs(KARRAS, 1281, -1.1, 2.0, u)
    grid = KARRAS.grid(1281).float()
    assert (t[0], r[0]) == (grid[0], grid[1])
    assert (t[1], r[1]) == (grid[-2], grid[-1])


def test_ict_expected_gradient_of_the_exact_function_is_of_order_h():
    """c is 10 times the largest residual of the wider pair, and the weight is 1 / h."""
    t, h = 2.0, 0.02
    x, z, _ = joint()
    gap = exact(x + t * z, torch.tensor([t])) - exact(x + (t - h) * z, torch.tensor([t - h]))
    c = 10 * float(gap.abs().max())

    def found(function, h):
        return gradient(ICT(huber_c=c), function, joint(), at=(t, t - h))

    right, fine = found(exact, h), found(exact, h / 2)
    assert order(right, fine)[1:].tolist() == pytest.approx([1, 1], abs=0.05)
    off, off_fine = found(wrong, h), found(wrong, h / 2)
    assert order(off, off_fine).tolist() == pytest.approx([0, 0, 0], abs=0.05)
    assert (off_fine.abs() > 10 * fine.abs()).all()


@pytest.mark.parametrize("name", ["pseudo-huber", "pseudo-huber-elementwise"])
def test_huber_form_is_an_option(name):
    """Of the whole image's norm, or of every pixel: on images of one pixel they are the same."""
    torch.manual_seed(0)
    x, student = torch.rand(6, 1, 8, 8) * 2 - 1, _small(0.0)
    roles = Roles(student, student, Teacher(KARRAS, Euler()))
    step = lambda: Step(0, 10, StepRng(0, 0, 6, slice(0, 6)))  # noqa: E731
    found = ICT(name, 0.03, "uniform")(roles, Batch(x), step()).loss
    plain = ICT("l2", None, "uniform")(roles, Batch(x), step()).loss
    if name == "pseudo-huber":
        expected = (64 * plain + 0.03**2).sqrt() - 0.03
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    else:
        # The square root is concave: the mean of roots is below the root of the mean.
        assert (found < (plain + 0.03**2).sqrt() - 0.03).all()
    a, b = torch.randn(3, 1, 1, 1), torch.randn(3, 1, 1, 1)
    torch.testing.assert_close(
        distance(name, a, b, 0.1), ((a - b)[:, 0, 0, 0] ** 2 + 0.01) ** 0.5 - 0.1
    )


# ect.


def _small(dropout, kind="consistency", precond=None):
    torch.manual_seed(1)
    network = Tiny(width=16, patch=1, dropout=dropout).build(8, 1, 0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Denoiser(network, precond or EDM(), KARRAS, kind, (1, 8, 8))


@pytest.mark.parametrize(
    ("q", "stage", "expected"),
    [
        (2, 0, [0, 0, 0, 0, 0.473, 0.5]),
        (2, 1, [0, 0, 0, 0.212, 0.737, 0.75]),
        (2, 2, [0.378, 0.4, 0.498, 0.606, 0.868, 0.875]),
        (2, 3, [0.689, 0.7, 0.749, 0.803, 0.934, 0.9375]),
        (256, 0, [0.980, 0.981, 0.984, 0.988, 0.996, 0.996]),
        (4, 3, [0.980, 0.981, 0.984, 0.988, 0.996, 0.996]),
    ],
)
def test_ect_times_equal_the_released_codes_table(q, stage, expected):
    t = torch.tensor([0.01, 0.1, 0.5, 1, 5, 80], dtype=torch.float64)
    draws = Draws((t.log() + 1.1) / 2.0)
    loss = ECT(q=float(q), stages=stage + 1)
    roles = Roles(None, None, Teacher(KARRAS, Euler()))
    found_t, r = loss.pairs(roles, Step(stage, stage + 1, draws))
    torch.testing.assert_close(found_t, t)
    assert (r / t).tolist() == pytest.approx(expected, abs=6e-4)


def test_ect_stages_are_the_published_ticks():
    """CIFAR-10: 200k steps of 128 images, a tick is 12.8 thousand images, doubling every 250."""
    loss, total = ECT(stages=8), 200_000
    for k in (0, 24_999, 25_000, 99_999, 100_000, 199_999):
        tick = k * 128 // 12_800
        assert loss.stage_at(k, total) == tick // 250
    assert loss.stage_at(250_000, total) == 7


@pytest.mark.parametrize(("mapping", "stage"), [("const", 5), ("sigmoid", 7)])
def test_ect_expected_gradient_of_the_exact_function_is_of_order_h(mapping, stage):
    """Where every r > 0; the gap halves from stage to stage, c is 10 times the residual."""
    t, (x, z, _) = 2.0, joint()
    normal = torch.full((len(x),), (math.log(t) + 1.1) / 2.0, dtype=torch.float64)
    r = shrinking_gap(torch.tensor([t]).double(), 2.0 ** -(stage + 1), mapping, 8, 1)
    assert r > 0
    c = 10 * float((exact(x + t * z, torch.tensor([t])) - exact(x + r * z, r)).abs().max())

    def found(function, stage, weighting="inverse-gap"):
        loss = ECT("pseudo-huber", c, weighting, stages=10, mapping=mapping)
        return gradient(loss, function, joint(), [normal], step=(stage, 10))

    right, fine = found(exact, stage), found(exact, stage + 1)
    assert order(right, fine)[1:].tolist() == pytest.approx([1, 1], abs=0.05)
    off, off_fine = found(wrong, stage), found(wrong, stage + 1)
    assert order(off, off_fine).tolist() == pytest.approx([0, 0, 0], abs=0.05)
    assert (off_fine.abs() > 10 * fine.abs()).all()
    # Without the gap in the weight there is one order more.
    snr = order(found(exact, stage, "karras"), found(exact, stage + 1, "karras"))
    assert snr[1:].tolist() == pytest.approx([2, 2], abs=0.05)


@pytest.mark.parametrize(
    "variant", [{}, {"huber_c": 0.06, "weighting": "karras"}, {"distance": "l2"}]
)
def test_ect_pairs_with_r_0_have_the_denoiser_as_optimum(variant):
    """The posterior is symmetric, so that its mean is the optimum of every distance."""
    t, x_t = 0.5, 0.9
    normal = torch.full((len(NODES),), (math.log(t) + 1.1) / 2.0, dtype=torch.float64)

    def found(function):
        return gradient(ECT(**variant), function, posterior(x_t, t), [normal])[0]

    best = found(ORACLE.denoise)
    assert best.abs() < 1e-12
    assert found(lambda x, t: ORACLE.denoise(x, t) + 0.3) > 1e-2
    assert found(lambda x, t: ORACLE.denoise(x, t) - 0.3) < -1e-2
    assert found(exact).abs() > 1e-2


def test_ect_asks_the_target_only_where_r_is_positive():
    """And takes x itself elsewhere; no row at all is no call."""
    student, seen = _small(0.0), []

    class Target(Denoiser):
        def forward(self, x, t, label=None, **more):
            seen.append(t)
            return super().forward(x, t, label, **more)

    target = Target(student.network, EDM(), KARRAS, "consistency", (1, 8, 8))
    loss, x = ECT("l2", weighting="uniform"), torch.rand(4, 1, 8, 8) * 2 - 1
    t = torch.tensor([0.1, 20.0, 1.0, 40.0])
    roles = Roles(student, target, Teacher(KARRAS, Euler()))
    z = torch.randn(4, 1, 8, 8)
    out = loss(roles, Batch(x), Step(0, 8, Draws((t.log() + 1.1) / 2, z)))
    r = shrinking_gap(t, 0.5, "sigmoid", 8, 1)
    torch.testing.assert_close(torch.cat(seen), r[[1, 3]])
    x_t = KARRAS.perturb(x, z, t)
    goal = torch.where((r > 0)[:, None, None, None], student(KARRAS.perturb(x, z, r), r + 1e-30), x)
    torch.testing.assert_close(
        out.loss, distance("l2", student(x_t, t), goal), rtol=1e-4, atol=1e-6
    )
    seen.clear()
    t = torch.full((4,), 0.1)
    loss(roles, Batch(x), Step(0, 8, Draws((t.log() + 1.1) / 2, z)))
    assert not seen


def test_ect_drops_the_same_units_on_both_sides_of_a_mixed_batch():
    student = _small(0.5).train()
    loss, t = ECT("l2", weighting="uniform"), torch.tensor([1.0, 2.0, 3.0, 4.0])
    object.__setattr__(loss, "pairs", lambda roles, step: (t, torch.where(t > 2, t, 0)))
    z = torch.randn(4, 1, 8, 8)
    roles = Roles(student, student, Teacher(KARRAS, Euler()))
    out = loss(roles, Batch(torch.rand(4, 1, 8, 8)), Step(0, 8, Draws(z))).loss
    assert out[2:].max() < 1e-10
    assert out[:2].min() > 1e-3


def test_ect_is_the_identity_at_0():
    """EDM's form is the consistency form with its boundary at 0, where c_skip = 1 and c_out = 0."""
    t = torch.tensor([0.0, 0.003, 0.821, 80.0])
    edm, shifted = EDM()(t), Consistency(boundary=0.0)(t)
    torch.testing.assert_close(edm[:3], shifted[:3], rtol=1e-6, atol=0)
    assert (edm.c_skip[0], edm.c_out[0]) == (1, 0)
    x, tiny = torch.randn(2, 1, 8, 8), 1e-6
    torch.testing.assert_close(_small(0.0)(x, tiny), x, rtol=0, atol=1e-4)


def test_ect_norm_has_a_finite_gradient_at_0():
    loss, student, t = ECT(), _small(0.0), torch.tensor([1.0, 2.0])
    object.__setattr__(loss, "pairs", lambda roles, step: (t, t - 1e-3))
    a = torch.zeros(2, 1, 4, 4, requires_grad=True)
    distance("pseudo-huber", a, torch.zeros_like(a), 0.0).sum().backward()
    assert torch.equal(a.grad, torch.zeros_like(a))
    roles = Roles(student, student, Teacher(KARRAS, Euler()))
    same = torch.zeros(2, 1, 8, 8)
    object.__setattr__(loss, "outputs", lambda *a: (student(same, t),) * 2)
    out = loss(roles, Batch(same), Step(0, 8, Draws(same))).loss
    out.sum().backward()
    assert out.tolist() == [0, 0]
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


# pd.


def two_euler_steps(schedule, intervals):
    """The answer whose one Euler step does what two of the exact denoiser's do."""
    levels = schedule.sigma(schedule.grid(2 * intervals + 1))

    def student(x, t):
        k = torch.searchsorted(-levels, -t * (1 - 1e-9), right=True) - 1
        middle, r = levels[k + 1], levels[k + 2]
        y, _ = Euler().step(ORACLE.denoise, KARRAS, x, t, middle)
        y, _ = Euler().step(ORACLE.denoise, KARRAS, y, middle, r)
        t, r = t.reshape(-1, 1, 1, 1), r.reshape(-1, 1, 1, 1)
        return x - t * (y - x) / (r - t)

    return student


@pytest.mark.parametrize("schedule", [KARRAS, TrigFlow()])
@pytest.mark.parametrize("intervals", [1, 2, 8, 64])
def test_pd_is_zero_for_the_composed_two_step_euler_map(schedule, intervals):
    loss = PD("l2", None, "uniform", intervals, stage_steps=1)
    teacher = model(ORACLE.denoise, schedule, "diffusion", (1, 1, 1))
    x = ORACLE.mean + ORACLE.variance**0.5 * torch.randn(64, 1, 1, 1, dtype=torch.float64)
    u = (torch.arange(64, dtype=torch.float64) + 0.5) / 64

    def found(function):
        student = model(function, schedule, "diffusion", (1, 1, 1))
        roles = Roles(student, student, Teacher(schedule, Euler(), teacher))
        draws = Draws(torch.randn(64, 1, 1, 1, dtype=torch.float64), u=u)
        return loss(roles, Batch(x), Step(0, 1, draws)).loss

    right = two_euler_steps(schedule, intervals)
    assert found(right).max() < 1e-18
    assert found(lambda x, t: right(x, t) + 0.01).min() > 0.9e-4
    # The teacher itself is no solution: its one step is not its two.
    assert found(ORACLE.denoise).max() > 1e-6


def test_pd_times_are_an_even_share_of_k_over_n():
    """N intervals and N + 1 levels, where cd's grid of N has N levels."""
    n, seen = 8, []

    class Student(Denoiser):
        def forward(self, x, t, label=None, **more):
            seen.append(t)
            return super().forward(x, t, label, **more)

    student = Student(_small(0.0).network, EDM(), KARRAS, "diffusion", (1, 8, 8))
    roles = Roles(student, student, Teacher(KARRAS, Euler(), _small(0.0)))
    x, u = torch.zeros(400, 1, 8, 8), (torch.arange(400) + 0.5) / 400
    PD(intervals=n, stage_steps=1)(roles, Batch(x), Step(0, 1, Draws(x, u=u)))
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    levels = torch.tensor([(high + k / n * (low - high)) ** 7 for k in range(n)])
    torch.testing.assert_close(seen[0], levels.repeat_interleave(50), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("k", "n"),
    [
        *((0, 64), (49_999, 64), (50_000, 32), (100_000, 16), (150_000, 8), (200_000, 4)),
        *((249_999, 4), (250_000, 2), (349_999, 2), (350_000, 1), (449_999, 1), (900_000, 1)),
    ],
)
def test_pd_stages_equal_the_released_codes_table(k, n):
    assert PD(intervals=64, stage_steps=50_000).stage(k, 450_000).intervals == n


@pytest.mark.parametrize(
    ("intervals", "total", "lengths"),
    [
        (64, 900, [100] * 5 + [200, 200]),
        (64, 917, [101] * 5 + [202, 210]),
        (2, 10, [4, 6]),
        (1, 7, [7]),
        (4096, 8, [1] * 8),
    ],
)
def test_pd_stages_fill_the_training(intervals, total, lengths):
    loss = PD(intervals=intervals)
    stages = sorted({loss.stage(k, total) for k in range(total)})
    assert [stage.end - stage.first for stage in stages] == lengths
    assert [stage.first for stage in stages] == [0, *(stage.end for stage in stages[:-1])]
    assert [stage.intervals for stage in stages] == [intervals // 2**k for k in range(len(lengths))]


def test_the_published_weights_by_name():
    t, r = torch.tensor([0.1, 2.0, 40.0]).double(), torch.tensor([0.05, 1.5, 39.0]).double()
    snr = (t**2 + 0.25) / (t * 0.5) ** 2
    torch.testing.assert_close(weight("karras", t, r, 0.5), snr)
    torch.testing.assert_close(weight("inverse-gap", t, r, 0.5), 1 / (t - r))


@pytest.mark.parametrize(
    ("name", "bad", "text"),
    [
        ("ict", {"levels_min": 0}, "1 <= levels_min <= levels_max"),
        ("ict", {"levels_min": 11, "levels_max": 10}, "1 <= levels_min <= levels_max"),
        ("ict", {"p_std": 0.0}, "p_std > 0"),
        ("ect", {"stages": 0}, "stages >= 1"),
        ("ect", {"q": 1.0}, "1 < q\\^stages"),
        ("ect", {"q": 4.0, "stages": 20}, "q\\^stages <= 1e5"),
        ("ect", {"k": -1.0}, "k >= 0"),
        ("ect", {"p_std": -2.0}, "p_std > 0"),
        ("pd", {"intervals": 0}, "intervals >= 1"),
        ("pd", {"stage_steps": 0}, "stage_steps >= 1"),
        ("pd", {"huber_c": -1.0}, "huber_c >= 0"),
    ],
)
def test_wrong_settings_are_refused(name, bad, text):
    with pytest.raises(ValueError, match=text):
        registry.load("losses", name)(**bad)
