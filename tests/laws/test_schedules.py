"""Laws of every schedule in the registry."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmtool import registry
from cmtool.denoiser import EDM
from cmtool.schedules.karras import Karras
from cmtool.schedules.log_sigma import LogSigma
from cmtool.schedules.trigflow import TrigFlow
from cmtool.schedules.vp_cosine import VPCosine
from cmtool.schedules.vp_linear import VPLinear

SCHEDULES = registry.names("schedules")


@pytest.fixture(params=SCHEDULES)
def schedule(request):
    return registry.load("schedules", request.param)()


@pytest.mark.parametrize("n", [1, 2, 3, 40, 1280])
def test_grid_falls_from_end_to_end_exactly(schedule, n):
    grid = schedule.grid(n)
    assert grid.dtype == torch.float64
    assert grid.shape == (n,)
    assert grid[0] == schedule.t_max
    assert n == 1 or grid[-1] == schedule.t_min
    assert (grid.diff() < 0).all()


@given(
    low=st.floats(1e-4, 1.0),
    factor=st.floats(1.5, 1e5),
    rho=st.floats(0.5, 12),
    n=st.integers(2, 64),
)
def test_karras_grid_keeps_its_law_for_any_range(low, factor, rho, n):
    grid = Karras(low, low * factor, rho).grid(n)
    assert grid[0] == low * factor
    assert grid[-1] == low
    assert (grid.diff() < 0).all()


def test_grid_of_nothing_is_refused(schedule):
    with pytest.raises(ValueError, match="at least one time"):
        schedule.grid(0)


def test_noise_to_signal_grows_with_time(schedule):
    scales = schedule(schedule.grid(100))
    assert ((scales.sigma / scales.alpha).diff() < 0).all()


def test_derivatives_equal_finite_differences(schedule):
    t = schedule.grid(50)[1:-1]
    h = 1e-6 * t
    up, down, here = schedule(t + h), schedule(t - h), schedule(t)
    torch.testing.assert_close(
        (up.alpha - down.alpha) / (2 * h), here.d_alpha, rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(
        (up.sigma - down.sigma) / (2 * h), here.d_sigma, rtol=1e-6, atol=1e-9
    )
    assert all(part.dtype == torch.float64 for part in here)


def test_between_keeps_its_ends_and_order(schedule):
    t, r = schedule.grid(4)[:2], schedule.grid(4)[2:]
    times = schedule.between(t, r, 5)
    torch.testing.assert_close(times[0], t)
    torch.testing.assert_close(times[-1], r)
    assert (times.diff(dim=0) < 0).all()


def test_noise_levels_and_times_are_inverse(schedule):
    t = schedule.grid(30)
    torch.testing.assert_close(schedule.from_sigma(schedule.sigma(t)), t, rtol=1e-12, atol=1e-12)
    x = torch.randn(30, 2).double()
    y, sigma = schedule.to_edm(x, t)
    torch.testing.assert_close(y * schedule(t).alpha[:, None], x)
    torch.testing.assert_close(sigma, schedule.sigma(t))


def test_trigflow_is_edms_process_in_another_frame():
    """Same x and z: x_trig = cos(t) x_edm, and the network input of both is the same."""
    trig, sd = TrigFlow(sigma_data=0.7), 0.7
    x, z, sigma = (
        torch.randn(3, 4).double(),
        torch.randn(3, 4).double(),
        torch.tensor([0.01, 1, 60]),
    )
    sigma = sigma.double()
    t = trig.from_sigma(sigma)
    x_trig, x_edm = trig.perturb(x, z, t), Karras().perturb(x, z, sigma)
    torch.testing.assert_close(x_trig, t.cos()[:, None] * x_edm)
    c = EDM(sigma_data=sd)(sigma)
    torch.testing.assert_close(x_trig / sd, c.c_in[:, None] * x_edm)
    # D = cos(t) x_t - sin(t) sd F is EDM's form with the sign of F turned.
    torch.testing.assert_close(c.c_skip * x_edm[:, 0], t.cos() * x_trig[:, 0])
    torch.testing.assert_close(c.c_out, t.sin() * sd)


def test_renoised_output_has_the_marginal_of_its_time(schedule):
    """x at t_min plus the noise of `renoise` has the standard deviation of x at t."""
    torch.manual_seed(0)
    n, std = 200_000, 0.6
    x0, z = torch.randn(n, 1, dtype=torch.float64) * std, torch.randn(n, 1, dtype=torch.float64)
    t = schedule.grid(5)[1].expand(n)
    low = torch.full_like(t, schedule.t_min)
    again = schedule.renoise(schedule.perturb(x0, torch.randn_like(z), low), z, t)
    scales = schedule(t[:1])
    expected = ((scales.alpha * std) ** 2 + scales.sigma**2).sqrt()
    # 5 standard errors of a standard deviation.
    assert abs(again.std() / expected - 1) < 5 / (2 * n) ** 0.5


def test_karras_matches_the_papers_closed_form():
    i = torch.arange(18, dtype=torch.float64)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    torch.testing.assert_close(
        Karras().grid(18), (high + i / 17 * (low - high)) ** 7, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("index", "levels", "sigma"),
    [(22, 40, 1.3824), (106, 201, 1.9128), (17, 40, 4.3656), (11, 18, 0.5853), (67, 151, 3.9912)],
)
def test_published_two_step_indices_are_these_noise_levels(index, levels, sigma):
    assert float(Karras().grid(levels)[index]) == pytest.approx(sigma, abs=5e-5)


@pytest.mark.parametrize("bad", [(0.5, 0.0, 80.0), (0.0, 0.1, 1.0), (0.5, 2.0, 1.0)])
def test_trigflow_refuses_wrong_ranges(bad):
    with pytest.raises(ValueError, match="needs"):
        TrigFlow(*bad)


@pytest.mark.parametrize("bad", [(0.0, 80.0), (-1.0, 80.0), (2.0, 1.0), (1.0, 1.0)])
def test_karras_refuses_a_wrong_range(bad):
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        Karras(*bad)


def test_every_schedule_takes_a_range_of_noise_levels_and_keeps_it():
    for name in SCHEDULES:
        schedule = registry.load("schedules", name)(sigma_min=0.03, sigma_max=40.0)
        assert schedule.noise_range == pytest.approx((0.03, 40.0), rel=1e-12)
        levels = schedule.sigma(schedule.grid(9))
        assert (levels.diff() < 0).all()


def test_all_schedules_are_one_process_in_several_frames(schedule):
    """The noisy image over its signal is x plus noise of the level that the time stands for."""
    x, z, sigma = (
        torch.randn(3, 4).double(),
        torch.randn(3, 4).double(),
        torch.tensor([0.01, 1, 60]),
    )
    t = schedule.from_sigma(sigma.double())
    y, level = schedule.to_edm(schedule.perturb(x, z, t), t)
    torch.testing.assert_close(level, sigma.double(), rtol=1e-10, atol=0)
    torch.testing.assert_close(y, x + level[:, None] * z, rtol=1e-10, atol=1e-10)


def test_log_sigma_divides_the_noise_by_the_same_at_every_step():
    grid = LogSigma(0.01, 100.0).grid(5)
    torch.testing.assert_close(grid, torch.tensor([100, 10, 1, 0.1, 0.01]).double())


@pytest.mark.parametrize("schedule", [VPLinear(), VPCosine()])
def test_variance_preserving_schedules_keep_unit_variance(schedule):
    scales = schedule(schedule.grid(50))
    torch.testing.assert_close(
        scales.alpha.square() + scales.sigma.square(), torch.ones(50).double()
    )
    steps = schedule.grid(50).diff()
    torch.testing.assert_close(steps, steps.mean().expand(49))


def test_vp_linear_follows_ddpms_betas():
    """The product of 1 - beta_i over DDPM's 1000 steps, beta from 1e-4 to 0.02, is alpha^2."""
    i = torch.arange(1000, dtype=torch.float64)
    kept = (1 - (1e-4 + i / 999 * (0.02 - 1e-4))).cumprod(0)
    alpha = VPLinear()((i + 1) / 1000).alpha
    torch.testing.assert_close(alpha.square().log(), kept.log(), rtol=0.02, atol=1e-4)
    assert VPLinear(0.0105, 152).t_max == pytest.approx(1, abs=2e-4)


def test_vp_cosine_is_the_papers_alpha_bar():
    t, s = torch.linspace(0.01, 0.99, 50, dtype=torch.float64), 0.008
    f = torch.cos((t + s) / (1 + s) * torch.pi / 2).square()
    start = torch.cos(torch.tensor(s / (1 + s) * torch.pi / 2, dtype=torch.float64)).square()
    torch.testing.assert_close(VPCosine()(t).alpha.square(), f / start)


@pytest.mark.parametrize("bad", [{"beta_d": 0.0}, {"beta_min": -1.0}, {"beta_d": float("inf")}])
def test_vp_linear_refuses_wrong_betas(bad):
    with pytest.raises(ValueError, match="beta"):
        VPLinear(**bad)


def test_vp_cosine_refuses_a_wrong_offset():
    with pytest.raises(ValueError, match="offset"):
        VPCosine(offset=-0.1)
