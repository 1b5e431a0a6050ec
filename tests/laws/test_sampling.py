"""Laws of the samplers and of the random streams."""

import numpy as np
import pytest
import torch
from torch import nn

from cmtool import registry
from cmtool.denoiser import EDM, Consistency, Denoiser
from cmtool.networks.tiny import Tiny
from cmtool.rng import SeedRng, StepRng, mix
from cmtool.sampling import sample_consistency, sample_ode
from cmtool.schedules.karras import Karras
from cmtool.solvers.heun import Heun
from cmtool.workflows._draw import draw, plan_for
from cmtool.workflows._times import parse_times
from cmtool.workflows.sample import sample
from tests.oracles import Gaussian

SHAPE = (1, 8, 8)
NFES = {"consistency": (1, 2, 3), "diffusion": (1, 17)}


def _model(kind, num_classes=0):
    torch.manual_seed(0)
    network = Tiny(width=16, patch=2).build(8, 1, num_classes)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.15)
    precond = EDM() if kind == "diffusion" else Consistency()
    classes = tuple(str(i) for i in range(num_classes))
    return Denoiser(network, precond, Karras(), kind, SHAPE, classes).eval()


@pytest.mark.parametrize("times", [[80.0], [80.0, 0.8], [80.0, 3.0, 0.3]])
def test_output_deviation_equals_the_closed_form(times):
    """On Gaussian data every step is affine, so the variance after n steps is known."""
    schedule, n = Karras(), 20_000
    oracle = Gaussian(schedule)
    rng = SeedRng(0, range(n))
    x = rng.randn((1,)).double() * times[0]
    levels = torch.tensor(times).double()
    out = sample_consistency(oracle.consistency, schedule, x, levels, rng=rng)
    mean, variance = 0.0, times[0] ** 2
    for i, t in enumerate(times):
        if i > 0:
            variance += t**2 - schedule.t_min**2
        shrink = (oracle.variance + schedule.t_min**2) / (oracle.variance + t**2)
        mean, variance = oracle.mean + shrink**0.5 * (mean - oracle.mean), shrink * variance
    # 4 standard errors.
    assert float(out.std()) == pytest.approx(variance**0.5, rel=4 / (2 * n) ** 0.5)
    assert float(out.mean()) == pytest.approx(mean, abs=4 * (variance / n) ** 0.5)


def test_ode_sampler_reaches_the_data_distribution():
    schedule, n = Karras(), 20_000
    oracle = Gaussian(schedule)
    x = SeedRng(0, range(n)).randn((1,)).double() * 80
    out = sample_ode(oracle.denoise, schedule, [Heun()] * 39, x, schedule.grid(40))
    assert float(out.std()) == pytest.approx(oracle.variance**0.5, rel=0.02)
    assert float(out.mean()) == pytest.approx(oracle.mean, abs=0.02)


def test_projection_is_applied_to_every_estimate_and_to_the_last():
    schedule, seen = Karras(), []

    def project(x):
        seen.append(x)
        return x.clamp(max=0)

    rng, levels = SeedRng(0, range(4)), torch.tensor([80.0, 5.0, 0.5]).double()
    x = rng.randn((3,)).double() * 80
    out = sample_consistency(
        Gaussian(schedule).consistency, schedule, x, levels, rng=rng, project=project
    )
    assert len(seen) == 3
    assert out.max() <= 0


def test_noise_is_numpys_philox_addressed_by_seed_draw_and_image():
    rng = SeedRng(5, [7, 0])
    rng.randn((2, 3))
    second = rng.randn((2, 3))
    stream = np.random.Generator(np.random.Philox(key=5, counter=[0, 0, 1, 7]))
    expected = stream.standard_normal((2, 3), dtype=np.float32)
    assert np.array_equal(second[0].numpy(), expected)


def test_different_images_draws_and_seeds_get_different_noise():
    first = SeedRng(0, range(50))
    draws = torch.cat([first.randn((8,)), first.randn((8,)), SeedRng(1, range(50)).randn((8,))])
    assert len(torch.unique(draws, dim=0)) == 150
    assert abs(float(draws.mean())) < 4 / 1200**0.5


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("consistency", 1),
        ("consistency", 2),
        ("consistency", 3),
        ("diffusion", 1),
        ("diffusion", 17),
    ],
)
def test_image_i_is_the_same_for_any_batch_size(kind, steps):
    model = _model(kind, num_classes=3)
    plan = plan_for(model, steps)
    whole, labels = draw(model, plan, range(8), seed=3)
    for size in (1, 3):
        for start in range(0, 8, size):
            numbers = range(start, min(start + size, 8))
            part, part_labels = draw(model, plan, numbers, seed=3)
            torch.testing.assert_close(part, whole[numbers.start : numbers.stop], rtol=0, atol=2e-6)
            assert torch.equal(part_labels, labels[numbers.start : numbers.stop])


def test_labels_are_uniform_and_do_not_disturb_the_noise():
    rng = SeedRng(0, range(3000))
    counts = torch.bincount(rng.labels(3))
    assert (counts - 1000).abs().max() < 5 * (3000 * 2 / 9) ** 0.5
    assert torch.equal(rng.randn((2,)), SeedRng(0, range(3000)).randn((2,)))


@pytest.mark.parametrize("nfe", [1, 2, 3, 10, 35])
@pytest.mark.parametrize("kind", ["diffusion", "consistency"])
@pytest.mark.parametrize("solver", [None, "euler"])
def test_steps_is_the_number_of_network_evaluations(kind, nfe, solver):
    if kind == "consistency" and solver:
        pytest.skip("a consistency model takes no solver")
    model, calls = _model(kind), []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    plan = plan_for(model, nfe, solver=solver)
    draw(model, plan, range(2), seed=0)
    assert len(calls) == nfe == plan.nfe


def test_heun_at_ten_is_four_heun_steps_one_euler_step_and_the_denoising():
    text = str(plan_for(_model("diffusion"), 10))
    assert "4 heun steps, 1 euler steps" in text
    assert "NFE 10" in text


def test_two_steps_renoise_to_0_8():
    plan = plan_for(_model("consistency"), 2)
    assert plan.times.tolist() == pytest.approx([80, 0.8])


def test_trigflow_angles_become_noise_levels():
    assert parse_times("80, trig:1.1", 0.5) == pytest.approx([80, 0.5 * np.tan(1.1)])


def test_python_sampling_is_in_range_and_repeats_itself():
    model = _model("consistency")
    first = sample(model, 5, seed=2)
    assert first.shape == (5, *SHAPE)
    assert first.abs().max() <= 1
    assert torch.equal(first, sample(model, 5, seed=2))
    assert torch.equal(first, sample(model, 5, times=[80.0], seed=2))
    assert not torch.equal(first, sample(model, 5, seed=4))


def test_step_draws_are_rows_of_one_global_draw():
    every = slice(0, 8)
    whole = StepRng(1, 2, 8, every)
    part = StepRng(1, 2, 8, slice(3, 5))
    assert torch.equal(part.randn(4), whole.randn(4)[3:5])
    assert torch.equal(part.rand(), whole.rand()[3:5])
    assert not torch.equal(
        StepRng(1, 3, 8, slice(0, 8)).rand(), StepRng(1, 2, 8, slice(0, 8)).rand()
    )


def test_mixed_seeds_do_not_collide_for_neighbours():
    assert len({mix(seed, step) for seed in range(50) for step in range(50)}) == 2500


def _renoised(gamma, schedule, times, x):
    """Every x_t at which the exact consistency function of Gaussian data is asked."""
    seen, oracle, rng = [], Gaussian(schedule), SeedRng(1, range(len(x)))

    def asked(x_t, t):
        seen.append(x_t)
        return oracle.consistency(x_t, t)

    out = sample_consistency(asked, schedule, x, times, rng=rng, gamma=gamma)
    assert rng.draws == (0 if gamma == 0 else len(times) - 1)
    return seen, out


@pytest.mark.parametrize("name", registry.names("schedules"))
def test_gamma_1_is_algorithm_1_bit_for_bit(name):
    schedule = registry.load("schedules", name)()
    times, rng = schedule.grid(5)[:3], SeedRng(1, range(50))
    x = SeedRng(0, range(50)).randn((2,)).double() * 80
    _, out = _renoised(1.0, schedule, times, x)
    oracle = Gaussian(schedule)
    for i, t in enumerate(times):
        if i > 0:
            x = schedule.renoise(x, rng.randn((2,)).double(), t.expand(50))
        x = oracle.consistency(x, t.expand(50))
    assert torch.equal(out, x)


@pytest.mark.parametrize("name", registry.names("schedules"))
def test_gamma_0_draws_no_noise_and_keeps_the_noise_it_finds(name):
    schedule = registry.load("schedules", name)()
    times = schedule.grid(5)[:3]
    x = SeedRng(0, range(50)).randn((2,)).double()
    seen, _ = _renoised(0.0, schedule, times, x)
    oracle = Gaussian(schedule)
    for i in (0, 1):
        t, s = times[i].expand(50), times[i + 1].expand(50)
        end = oracle.consistency(seen[i], t)
        z_hat = schedule.noise_in(end, seen[i], t)
        torch.testing.assert_close(schedule.renoise(end, z_hat, t), seen[i])
        torch.testing.assert_close(schedule.renoise(end, z_hat, s), seen[i + 1])


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
def test_gamma_spreads_as_the_closed_form_says(gamma):
    """On Gaussian data the estimate and its noise are both proportional to x_t - mean: they add up
    as deviations, where independent noise adds up as variances."""
    schedule, n, t, s = Karras(), 10_000, 5.0, 1.0
    oracle = Gaussian(schedule)
    low = schedule.t_min
    v_low, v_t, v_s = (oracle.variance + level**2 for level in (low, t, s))
    x = oracle.mean + v_t**0.5 * SeedRng(0, range(n)).randn((1,)).double()
    seen, _ = _renoised(gamma, schedule, torch.tensor([t, s]).double(), x)
    found = ((v_t**0.5 - v_low**0.5) / (v_t**0.5 + v_low**0.5)) ** 0.5  # deviation of z_hat
    std = (s**2 - low**2) ** 0.5
    along = v_low**0.5 + (1 - gamma**2) ** 0.5 * std * found
    expected = (along**2 + (gamma * std) ** 2) ** 0.5
    # 4 standard errors.
    assert float(seen[1].std()) == pytest.approx(expected, rel=4 / (2 * n) ** 0.5)
    assert expected == pytest.approx(v_s**0.5) if gamma == 1 else expected > v_s**0.5
