"""Closed forms of the losses that take a derivative along the trajectory."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from cmtool.denoiser import EDM, Consistency, Denoiser, LogWeight
from cmtool.losses import _distance
from cmtool.losses._continuous import ContinuousLoss
from cmtool.losses._distance import distance
from cmtool.losses._features import features
from cmtool.losses._jvp import jvp
from cmtool.losses.base import Roles, Step
from cmtool.losses.cd import CD
from cmtool.losses.cd_continuous import CDContinuous
from cmtool.losses.ct_continuous import CTContinuous
from cmtool.losses.dsm import DSM
from cmtool.losses.scd import SCD
from cmtool.losses.sct import SCT
from cmtool.networks.tiny import Tiny
from cmtool.rng import StepRng
from cmtool.schedules.karras import Karras
from cmtool.schedules.trigflow import TrigFlow
from cmtool.solvers.euler import Euler
from cmtool.solvers.heun import Heun
from cmtool.teacher import Teacher
from cmtool.tensors import Batch, expand
from tests.oracles import Exact, Gaussian, model

SHAPE = (1, 4, 4)
SD = 0.5
KARRAS = Karras()
ORACLE = Gaussian(KARRAS)
TEACHER = Teacher(KARRAS, Heun(), model(ORACLE.denoise, KARRAS, "diffusion", SHAPE))
DATA = Teacher(KARRAS, Euler())


@dataclass
class Fixed:
    """Draws that are given: u or n for the times, z for the images."""

    time: torch.Tensor
    z: torch.Tensor

    def rand(self):
        return self.time

    def randn(self, *shape):
        return self.z if shape else self.time


def image(n=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = ORACLE.mean + ORACLE.variance**0.5 * torch.randn(n, *SHAPE, generator=g).double()
    return x, torch.randn(n, *SHAPE, generator=g).double()


def student(precond=None, seed=0, dropout=0.0):
    """A small network with weights that are nowhere zero, in float64."""
    torch.manual_seed(seed)
    network = Tiny(width=16, patch=1, blocks=1, multipliers=(1,), dropout=dropout).build(4, 1, 0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    made = Denoiser(network, precond or Consistency(), KARRAS, "consistency", SHAPE)
    made.log_weight = LogWeight()
    return made.double()


def to_zero(x, t):
    """The exact consistency function with its boundary at 0."""
    return ORACLE.flow(x, t, torch.zeros_like(t))


def edm_model(function):
    """A consistency model in EDM's form, as sCM's: its F is a given function's."""
    made = Denoiser(Exact(function, EDM()), EDM(), KARRAS, "consistency", SHAPE)
    made.log_weight = LogWeight()
    return made.double()


def wrong(function, by=0.05):
    return lambda x, t: function(x, t) + by * expand(t, x)


def whole(loss, model, teacher, x, time, z, index=0):
    return loss(Roles(model, model, teacher), Batch(x), Step(index, 100, Fixed(time, z)))


def gradient(losses, model):
    found = torch.autograd.grad(losses.sum(), list(model.network.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def posterior(x_t, sigma):
    """The two nodes and equal weights that integrate cubics in x0 given x + sigma z exactly."""
    mean = ORACLE.denoise(x_t, sigma)
    variance = ORACLE.variance * sigma**2 / (ORACLE.variance + sigma**2)
    std = expand(variance.sqrt(), x_t)
    nodes = [mean - std, mean + std]
    return [(x, (x_t - x) / expand(sigma, x_t)) for x in nodes]


# --- cd-continuous and ct-continuous ---------------------------------------------------------


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_cd_continuous_vanishes_at_the_exact_function_alone(stop_gradient):
    x, z = image()
    u = torch.linspace(0.02, 0.98, 6).double()
    loss = CDContinuous(stop_gradient=stop_gradient)
    exact = model(ORACLE.consistency, KARRAS, "consistency", SHAPE)
    assert whole(loss, exact, TEACHER, x, u, z).loss.max().sqrt() < 1e-11
    slightly = model(wrong(ORACLE.consistency), KARRAS, "consistency", SHAPE)
    # 0.05 t changes by 0.05 for each unit of t.
    found = whole(loss, slightly, TEACHER, x, u, z).loss
    torch.testing.assert_close(found, torch.full_like(u, 0.05**2), rtol=1e-8, atol=0)
    l1 = CDContinuous("l1", stop_gradient=False)
    found = whole(l1, slightly, TEACHER, x, u, z).loss
    torch.testing.assert_close(found, torch.full_like(u, 0.05), rtol=1e-8, atol=0)


def test_times_are_even_over_the_grid():
    n = 4001
    u = torch.linspace(0, 1, n, dtype=torch.float64)
    x = torch.zeros(n, *SHAPE).double()
    out = whole(CTContinuous(), student(), DATA, x, u, x)
    torch.testing.assert_close(out.sigma.flip(0), KARRAS.grid(n), rtol=1e-10, atol=0)


def test_ct_continuous_is_right_on_average_over_the_posterior():
    """At the exact function the derivative along the data averages to 0, and to 0.05 when wrong."""
    x_t, u = 2 * image()[0], torch.linspace(0.1, 0.9, 6).double()
    sigma = KARRAS.unwarp(u * 3)
    for function, expected in ((ORACLE.consistency, 0.0), (wrong(ORACLE.consistency), 0.05)):
        exact = model(function, KARRAS, "consistency", SHAPE)
        changes = []
        for x, _ in posterior(x_t, sigma):
            velocity = DATA.velocity(x_t, sigma, Batch(x))
            tangents = (velocity, torch.ones_like(sigma))
            changes.append(jvp(exact.bind(), (x_t, sigma), tangents, "float32")[1])
        assert max(change.abs().max() for change in changes) > 0.1
        mean = sum(changes) / 2
        torch.testing.assert_close(mean, torch.full_like(mean, expected), rtol=0, atol=1e-11)


def test_ct_continuous_has_the_gradient_of_cd_continuous_on_average():
    """For a network, which is far from affine: the derivative is linear in the velocity anyhow."""
    x, z = image()
    u = torch.linspace(0.1, 0.9, 6).double()
    net = student()
    distilled = whole(CDContinuous(), net, TEACHER, x, u, z)
    x_t = KARRAS.perturb(x, z, distilled.sigma)
    trained = [
        whole(CTContinuous(), net, DATA, x0, u, noise)
        for x0, noise in posterior(x_t, distilled.sigma)
    ]
    mean = sum(gradient(out.loss, net) for out in trained) / 2
    expected = gradient(distilled.loss, net)
    torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-10 * float(expected.abs().max()))
    # Its value is larger by the variance, which is why it needs the stop-gradient.
    assert sum(out.loss for out in trained).sum() / 2 > 1.05 * distilled.loss.sum()


@dataclass(frozen=True)
class FixedCD(CD):
    """CD on the pairs (t, t - h t)."""

    t: tuple[float, ...] = ()
    h: float = 1e-4

    def pairs(self, roles, step):
        t = torch.tensor(self.t, dtype=torch.float64)
        return t, t * (1 - self.h)


TIMES = (0.05, 0.4, 2.0, 10.0)


def both(name, **settings):
    """The discrete loss with a small gap and the continuous one on the same (x_t, t)."""
    x, z = image(len(TIMES))
    t = torch.tensor(TIMES, dtype=torch.float64)
    low, high = KARRAS.warp(torch.tensor(KARRAS.span, dtype=torch.float64)).tolist()
    u = (KARRAS.warp(t) - low) / (high - low)
    discrete = FixedCD(name, t=TIMES)
    net = student()
    small = whole(discrete, net, TEACHER, x, u, z)
    limit = whole(CDContinuous(name, **settings), net, TEACHER, x, u, z)
    return net, small.loss, limit.loss, discrete.h * t


@pytest.mark.parametrize(("form", "constant"), [("paper", 1.0), ("openai", 2.0)])
def test_gradient_is_the_limit_of_the_discrete_one_times_the_constant(form, constant):
    net, small, limit, gap = both("l2", form=form)
    a, b = gradient(small / gap, net), gradient(limit, net)
    assert float(a @ b / b.square().sum()) == pytest.approx(constant, rel=1e-3)
    assert float(nn.functional.cosine_similarity(a, b, 0)) == pytest.approx(1, abs=1e-6)


def test_value_is_the_limit_of_the_discrete_one():
    for stop_gradient in (True, False):
        _, small, limit, gap = both("l2", stop_gradient=stop_gradient)
        torch.testing.assert_close(small / gap**2, limit, rtol=2e-3, atol=0)
    _, small, limit, gap = both("l1", stop_gradient=False)
    torch.testing.assert_close(small / gap, limit, rtol=2e-3, atol=0)
    _, _, norm, _ = both("l2", stop_gradient=False, form="openai")
    _, _, square, _ = both("l2", stop_gradient=False)
    torch.testing.assert_close(norm.square(), square)


def test_norm_has_a_gradient_where_the_derivative_vanishes():
    loss = CDContinuous(stop_gradient=False, form="openai")
    change = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    norm = loss._compare(torch.zeros(2, 2), change)
    norm.sum().backward()
    assert norm.tolist() == [0, 5]
    torch.testing.assert_close(change.grad, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


@pytest.mark.parametrize("net", [student(), student(Consistency(EDM(noise_input="angle")))])
def test_derivative_and_its_gradient_equal_finite_differences(net):
    x, v = image()
    t = torch.tensor([0.01, 0.1, 0.5, 2.0, 10.0, 60.0]).double()
    tangents = (expand(t, x) * v, t)
    value, change = jvp(net.bind(), (x, t), tangents, "float32")
    ahead, behind = (net(x + s * expand(t, x) * v, t + s * t) for s in (1e-6, -1e-6))
    torch.testing.assert_close(value, net(x, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(change, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-6)


@pytest.fixture
def random_trunk(monkeypatch):
    import lpips

    torch.manual_seed(0)
    _distance.lpips_network.cache_clear()
    real = lpips.LPIPS
    monkeypatch.setattr(_distance, "LPIPS_SIZE", 48)
    monkeypatch.setattr(
        lpips, "LPIPS", lambda net, verbose: real(net=net, verbose=False, pnet_rand=True)
    )
    yield
    _distance.lpips_network.cache_clear()


@pytest.mark.parametrize("name", ["l2", "lpips-vgg", "lpips-vgg-avg", "lpips-alex"])
def test_features_give_the_distance(random_trunk, name):
    a, b = torch.rand(2, 1, 8, 8) * 2 - 1, torch.rand(2, 1, 8, 8) * 2 - 1
    phi = features(name, a.device)
    found = (phi(a) - phi(b)).square().sum(1)
    torch.testing.assert_close(found, distance(name, a, b), rtol=1e-4, atol=1e-7)


def test_lpips_is_the_limit_of_the_discrete_one(random_trunk, monkeypatch):
    """Value and gradient, both constants; in float64, for a small gap."""
    name = "lpips-alex"
    network = _distance.lpips_network(name).double()
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    assert next(network.parameters()).dtype == torch.float64
    results = {}
    for form in ("paper", "openai"):
        net, small, limit, gap = both(name, form=form)
        a, b = gradient(small / gap, net), gradient(limit, net)
        results[form] = float(a @ b / b.square().sum())
        assert float(nn.functional.cosine_similarity(a, b, 0)) == pytest.approx(1, abs=1e-4)
        net, small, limit, gap = both(name, form=form, stop_gradient=False)
        results[form, "value"] = float((small / gap**2 / limit).detach().mean())
        assert gradient(limit, net).isfinite().all()
    assert results == pytest.approx(
        {"paper": 1, ("paper", "value"): 1, "openai": 1, ("openai", "value"): 0.5}, rel=0.02
    )


@pytest.mark.parametrize(
    ("cls", "bad", "text"),
    [
        (CDContinuous, {"distance": "l1"}, "needs distance one of l2, lpips"),
        (CDContinuous, {"distance": "pseudo-huber"}, "needs distance one of l2"),
        (CDContinuous, {"distance": "l2-32", "stop_gradient": False}, "one of l1, l2"),
        (CDContinuous, {"tangent_limit": 0.0}, "tangent_limit > 0"),
        (CTContinuous, {"distance": "l1"}, "needs distance one of l2, lpips"),
        (CTContinuous, {"stop_gradient": False}, "stop_gradient = true"),
        (CTContinuous, {"distance": "l1", "stop_gradient": False}, "stop_gradient = true"),
        (SCD, {"norm_c": 0.0}, "norm_c > 0"),
        (SCT, {"tangent_warmup": -1}, "tangent_warmup >= 0"),
        (SCT, {"p_std": 0.0}, "p_std > 0"),
        (SCT, {"tangent_limit": 0.0}, "tangent_limit > 0"),
    ],
)
def test_wrong_settings_are_refused(cls, bad, text):
    with pytest.raises(ValueError, match=text):
        cls(**bad)


# --- scd and sct -----------------------------------------------------------------------------

SIGMA = torch.tensor([0.02, 0.1, 0.4, 1.0, 5.0, 40.0]).double()


@torch.no_grad()
def ends(teacher, x, z):
    return teacher.split(KARRAS.perturb(x, z, SIGMA), SIGMA, Batch(x))


def tangent(model, x, z, to, r):
    return SCD().tangent(model, Batch(x), SIGMA, (x, z), to, r)


def test_scd_vanishes_at_the_exact_function_alone():
    x, z = image()
    to = ends(TEACHER, x, z)
    assert tangent(edm_model(to_zero), x, z, to, 1.0).g.abs().max() < 1e-12
    # The wrong part of f is 0.05 sigma, and g = cos(t) df/dt = 0.05 sd / cos(t) of it.
    g = tangent(edm_model(wrong(to_zero)), x, z, to, 1.0).g
    cos = SD / (SD**2 + SIGMA**2).sqrt()
    torch.testing.assert_close(g, expand(0.05 * SD / cos, g).expand_as(g), rtol=1e-9, atol=1e-12)


def test_scd_starts_from_the_diffusion_model():
    """At r = 0 the tangent vanishes for the denoiser, and for no other function."""
    x, z = image()
    to = ends(TEACHER, x, z)
    assert tangent(edm_model(ORACLE.denoise), x, z, to, 0.0).g.abs().max() < 1e-12
    for other in (wrong(ORACLE.denoise), to_zero):
        g = tangent(edm_model(other), x, z, to, 0.0).g
        assert (g.flatten(1).abs().amax(1) > 1e-4).all()


def test_tangent_at_full_warm_up_is_cos_t_df_dt():
    """By finite differences along the ODE, for a network, with either noise input."""
    frame = TrigFlow(SD)
    x, z = image()
    t = frame.from_sigma(SIGMA)
    x_t = frame.perturb(x, z, t)
    velocity = Teacher(frame, Euler(), TEACHER.denoiser).velocity(x_t, t, Batch(x))
    for precond in (EDM(), EDM(noise_input="angle")):
        net = student(precond)
        denoise = net.bind(schedule=frame)
        h = 1e-6 * (math.pi / 2 - t)
        step = expand(h, x_t)
        ahead, behind = denoise(x_t + step * velocity, t + h), denoise(x_t - step * velocity, t - h)
        expected = expand(t.cos(), x_t) * (ahead - behind) / (2 * step)
        g = tangent(net, x, z, ends(TEACHER, x, z), 1.0).g
        torch.testing.assert_close(g, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("r", [0.0, 0.3, 1.0])
def test_sct_has_the_tangent_of_scd_on_average(r):
    x, z = image()
    x_s = KARRAS.perturb(x, z, SIGMA)
    for net in (student(EDM()), edm_model(to_zero)):
        distilled = tangent(net, x, z, ends(TEACHER, x, z), r).g
        nodes = posterior(x_s, SIGMA)
        trained = [tangent(net, x0, noise, (x0, noise), r).g for x0, noise in nodes]
        torch.testing.assert_close(sum(trained) / 2, distilled, rtol=1e-9, atol=1e-11)
        assert (trained[0] - distilled).abs().max() > 0.05
    split = DATA.split(x_s, SIGMA, Batch(x))
    torch.testing.assert_close(split[0], x, rtol=0, atol=0)
    torch.testing.assert_close(split[1], z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cls", [SCD, SCT])
def test_gradient_is_the_normalised_tangent(cls):
    """dL/dF = -2 e^w / sigma g / (|g| + c) / D for either norm and prior; dL/dw by hand."""
    x, z = image()
    net = student(EDM())
    nn.init.normal_(net.log_weight.linear.weight, std=0.1)
    teacher = TEACHER if cls is SCD else DATA
    n = (SIGMA.log() + 1.0) / 1.4
    pixels = x[0].numel()
    for norm, size in (("rms", pixels**0.5), ("l2", 1.0)):
        for prior in ("inverse-sigma", "uniform"):
            loss = cls(norm=norm, prior=prior, tangent_warmup=40)
            out = whole(loss, net, teacher, x, n, z, index=20)
            found = tangent(net, x, z, ends(teacher, x, z), 0.5)
            g = found.g
            w = net.log_weight(SIGMA)
            factor = w.exp() * (1 / SIGMA if prior == "inverse-sigma" else 1)
            norms = g.flatten(1).norm(dim=1) / size + 0.1
            push = -2 * expand(factor.detach() / norms / pixels, g) * g
            a = gradient(out.loss, net)
            b = gradient((push * found.output).sum(), net)
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
            error = (g.flatten(1).norm(dim=1) / norms).square() / pixels
            torch.testing.assert_close(out.loss, factor * error - w, rtol=1e-9, atol=1e-12)
            assert out.stats["r"] == 0.5
            torch.testing.assert_close(out.sigma, SIGMA)


def test_scm_statistics():
    x, z = image()
    n = (SIGMA.log() + 1.0) / 1.4
    net = student(EDM())
    net.log_weight.linear.bias.data.fill_(0.7)
    out = whole(SCD(tangent_warmup=0), net, TEACHER, x, n, z)
    g = tangent(net, x, z, ends(TEACHER, x, z), 1.0).g.flatten(1).square().mean(1).sqrt()
    # 0.1 and 1 come out of exp(log(.)) on either side of an edge.
    sides = torch.bucketize(out.sigma, torch.tensor([0.1, 1.0, 10.0]).double())
    for i, name in enumerate(("g_below_0.1", "g_below_1", "g_below_10", "g_above_10")):
        assert out.stats[name] == pytest.approx(float(g[sides == i].detach().mean()))
    assert out.stats["r"] == 1.0
    assert 0 < out.stats["jvp_share"] < 1
    assert [out.stats[f"w_at_{level}"] for level in ("0.01", "0.1", "1", "10")] == [
        pytest.approx(0.7)
    ] * 4
    few = whole(SCD(), net, TEACHER, x[:1], n[3:4], z[:1])
    assert "g_below_0.1" not in few.stats
    assert few.stats["jvp_share"] == 0  # r = 0


def test_warm_up_is_linear_and_resumable():
    ratios = [SCT(tangent_warmup=100).describe(k, 1000)["r"] for k in (0, 25, 100, 900)]
    assert ratios == [0, 0.25, 1, 1]
    assert SCT(tangent_warmup=0).describe(0, 1000)["r"] == 1


# --- TrigFlow --------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_input", ["log", "angle"])
def test_dsm_on_trigflow_is_the_velocity_loss(noise_input):
    """mean((sd F - dx_t/dt)^2) / sd^2, F = -F_edm on x_t / sd, whatever the network is."""
    frame = TrigFlow(SD)
    x, z = image()
    net = student(EDM(noise_input=noise_input))
    net.kind, net.schedule = "diffusion", frame
    n = (SIGMA.log() + 1.2) / 1.2
    out = whole(DSM(), net, Teacher(frame, Euler()), x, n, z)
    t = frame.from_sigma(SIGMA)
    x_t = expand(t.cos(), x) * x + expand(t.sin(), x) * SD * z
    c_noise = 0.25 * (SIGMA.log() if noise_input == "log" else t)
    velocity = expand(t.cos(), x) * SD * z - expand(t.sin(), x) * x
    error = SD * -net.network(x_t / SD, c_noise) - velocity
    expected = error.flatten(1).square().mean(1) / SD**2
    torch.testing.assert_close(out.loss, expected, rtol=1e-9, atol=0)


def test_an_edm_model_answers_in_trigflows_frame_without_training():
    """The same network input, the same answer, and the same ODE, from either side."""
    frame = TrigFlow(SD)
    x, z = image()
    teacher = student(EDM(), seed=3)
    t = frame.from_sigma(SIGMA)
    x_t, y = frame.perturb(x, z, t), KARRAS.perturb(x, z, SIGMA)
    own = teacher.bind()(y, SIGMA)
    torch.testing.assert_close(teacher.bind(schedule=frame)(x_t, t), own, rtol=1e-9, atol=1e-12)
    c = teacher.precond(SIGMA)
    torch.testing.assert_close(expand(c.c_in, y) * y, x_t / SD, rtol=1e-12, atol=1e-12)
    # x0 = cos x_t - sin sd F with F = -F_edm.
    F = -teacher.raw(x_t / SD, SIGMA)
    by_hand = expand(t.cos(), x) * x_t - expand(t.sin(), x) * SD * F
    torch.testing.assert_close(by_hand, own, rtol=1e-9, atol=1e-11)
    # A model that was built on TrigFlow answers in EDM's frame as well.
    back = Denoiser(teacher.network, EDM(), frame, "diffusion", SHAPE)
    torch.testing.assert_close(back.bind(schedule=KARRAS)(y, SIGMA), own)
    torch.testing.assert_close(back.bind()(x_t, t), own, rtol=1e-9, atol=1e-12)
    velocity = Teacher(frame, Heun(), teacher).velocity(x_t, t, Batch(x))
    torch.testing.assert_close(velocity, SD * F, rtol=1e-8, atol=1e-10)


def test_scm_does_not_depend_on_the_runs_schedule():
    x, z = image()
    n = (SIGMA.log() + 1.0) / 1.4
    net = student(EDM())
    losses = [
        whole(SCD(tangent_warmup=0), net, Teacher(s, Euler(), TEACHER.denoiser), x, n, z).loss
        for s in (KARRAS, TrigFlow(SD), TrigFlow(0.7))
    ]
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-8, atol=1e-10)


# --- Precision -------------------------------------------------------------------------------

JVP_LOSSES = {
    "cd-continuous": CDContinuous(),
    "cd-continuous-l1": CDContinuous("l1", stop_gradient=False),
    "cd-continuous-norm": CDContinuous(stop_gradient=False, form="openai"),
    "ct-continuous": CTContinuous(),
    "scd": SCD(tangent_warmup=20),
    "sct": SCT(tangent_warmup=20),
}


def train(loss, steps):
    """Trains on the CPU under bf16 autocast; all losses and gradient norms."""
    torch.manual_seed(0)
    spec = Tiny(8, (1,), blocks=1, patch=1, attention=True, head_channels=4, dropout=0.1)
    network = spec.build(4, 1, 0)
    precond = EDM() if loss.precond == "edm" else Consistency()
    net = Denoiser(network, precond, KARRAS, "consistency", SHAPE)
    net.log_weight = LogWeight()
    exact = model(ORACLE.denoise, KARRAS, "diffusion", SHAPE).float()
    teacher = Teacher(KARRAS, Heun(), exact if loss.needs_teacher_model else None)
    optimizer = torch.optim.RAdam(net.parameters(), 1e-3)
    seen = []
    for k in range(steps):
        rng = StepRng(0, k, 16, slice(0, 16))
        x = ORACLE.mean + ORACLE.variance**0.5 * StepRng(1, k, 16, slice(0, 16)).randn(*SHAPE)
        with torch.autocast("cpu", torch.bfloat16):
            out = loss(Roles(net, net, teacher), Batch(x), Step(k, steps, rng))
        assert out.loss.dtype == torch.float32
        out.loss.mean().backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), math.inf)
        optimizer.step()
        optimizer.zero_grad()
        seen += [out.loss.detach().mean(), norm]
    return torch.stack(seen)


@pytest.mark.parametrize("precision", ["float32", "autocast"])
@pytest.mark.parametrize("name", JVP_LOSSES)
def test_bf16_trains_without_a_non_finite_number(name, precision):
    assert train(replace(JVP_LOSSES[name], tangent_precision=precision), 30).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "autocast"])
@pytest.mark.parametrize("name", JVP_LOSSES)
def test_bf16_trains_long_without_a_non_finite_number(name, precision):
    assert train(replace(JVP_LOSSES[name], tangent_precision=precision), 300).isfinite().all()


def test_the_tangent_is_float32_unless_asked():
    net = student().float()
    x, t = torch.randn(4, *SHAPE), torch.tensor([0.1, 0.5, 2.0, 20.0])
    tangents = (expand(t, x) * torch.randn_like(x), t)
    exact = jvp(net.bind(), (x, t), tangents, "float32")
    allowed = []

    def spy(x_t, t):
        allowed.append((torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")))
        return net.bind()(x_t, t)

    before = torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        kept = jvp(spy, (x, t), tangents, "float32")
        rough = jvp(spy, (x, t), tangents, "autocast")
    assert allowed == [(False, False), (before, True)]
    assert torch.backends.cudnn.allow_tf32 == before
    for a, b in zip(exact, kept, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(rough[1], exact[1])
    assert (rough[1] - exact[1]).norm() < 0.2 * exact[1].norm()


def test_every_continuous_loss_says_that_it_uses_the_derivative():
    assert all(cls.uses_jvp for cls in (CDContinuous, CTContinuous, SCD, SCT))
    assert not CD.uses_jvp
    assert issubclass(CDContinuous, ContinuousLoss)
