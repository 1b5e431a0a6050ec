"""Laws of the forms of preconditioning."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cmtool.denoiser import Denoiser
from cmtool.preconditioner import DDPM, EDM, VE, VP, Consistency, Preconditioner, preconditioner
from cmtool.recipe import parse
from cmtool.schedules.karras import Karras
from cmtool.settings import DenoiserSettings
from cmtool.tensors import expand

FORMS: dict[str, Preconditioner] = {
    "edm": EDM(),
    "edm-angle": EDM(noise_input="angle"),
    "vp": VP(),
    "ve": VE(),
    "ddpm-linear": DDPM(),
    "ddpm-scaled": DDPM(betas="scaled_linear", beta_start=0.00085, beta_end=0.012),
    "ddpm-cosine-v": DDPM(prediction="v", betas="cosine", timesteps=4000),
    "ddpm-sample": DDPM(prediction="sample"),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
every_shiftable_form = pytest.mark.parametrize(
    "form",
    [form for name, form in FORMS.items() if name != "ddpm-sample"],
    ids=[name for name in FORMS if name != "ddpm-sample"],
)


def levels() -> Tensor:
    return torch.logspace(-2.5, 1.9, 40, dtype=torch.float64)


class Optimal(nn.Module):
    """The F that makes squares least for data N(mean, variance), computed without any c_skip or
    c_out: what the network is asked for, expected given x_t."""

    def __init__(self, form: Preconditioner, sigma: Tensor, mean: float, variance: float) -> None:
        super().__init__()
        self.form, self.sigma, self.mean, self.variance = form, sigma, mean, variance
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, scaled: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        s = expand(self.sigma, scaled)
        match self.form:
            case EDM(sigma_data=sd):
                x = scaled * (s**2 + sd**2).sqrt()
            case VE():
                x = scaled
            case _:
                x = scaled * (1 + s**2).sqrt()
        image = self.mean + self.variance / (self.variance + s**2) * (x - self.mean)
        noise = s / (self.variance + s**2) * (x - self.mean)
        match self.form:
            case EDM(sigma_data=sd):
                # The part of the image across the noisy one's direction, of unit variance.
                return (s / sd * image - sd * noise) / (s**2 + sd**2).sqrt()
            case VE():
                return -noise
            case DDPM(prediction="v"):
                return (noise - s * image) / (1 + s**2).sqrt()
            case DDPM(prediction="sample"):
                return image
        return noise


@every_form
def test_the_optimal_network_gives_the_posterior_mean(form: Preconditioner) -> None:
    """Whatever the network is asked for, D is E[x | x_t]."""
    sigma, mean, variance = levels(), 0.2, 0.36
    network = Optimal(form, sigma, mean, variance)
    model = Denoiser(network, form, Karras(), "diffusion", (1, 2, 2))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(sigma), 1, 2, 2, generator=generator, dtype=torch.float64)
    x = mean + x * expand((variance + sigma**2).sqrt(), x)
    s = expand(sigma, x)
    exact = (variance * x + s**2 * mean) / (variance + s**2)
    torch.testing.assert_close(model(x, sigma), exact, rtol=1e-10, atol=1e-10)


@every_shiftable_form
def test_every_form_is_the_identity_without_noise(form: Preconditioner) -> None:
    c = form(torch.zeros(1, dtype=torch.float64))
    assert (float(c.c_skip), float(c.c_out)) == (1, 0)


@every_shiftable_form
@pytest.mark.parametrize("boundary", [0.002, 0.003, 0.02])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shifted_form_is_exactly_the_identity_at_its_boundary(
    form: Preconditioner, boundary: float, dtype: torch.dtype
) -> None:
    c = Consistency(form, boundary)(torch.tensor([boundary], dtype=dtype))
    assert (float(c.c_skip), float(c.c_out)) == (1, 0)


@every_shiftable_form
def test_a_shifted_form_is_the_form_far_from_the_boundary(form: Preconditioner) -> None:
    """c_in and c_noise stay, so the network is asked the same; c_skip and c_out differ by a share
    of b / t at the most."""
    t = levels()
    plain, shifted = form(t), Consistency(form, 0.002)(t)
    assert torch.equal(plain.c_in, shifted.c_in)
    assert torch.equal(plain.c_noise, shifted.c_noise)
    torch.testing.assert_close(shifted.c_out, plain.c_out * (1 - 0.002 / t), rtol=1e-12, atol=0)
    torch.testing.assert_close(shifted.c_skip, form(t - 0.002).c_skip, rtol=0, atol=0)
    assert ((shifted.c_skip - plain.c_skip).abs() <= 2.1 * 0.002 / t).all()


@pytest.mark.parametrize("sd", [0.5, 1.0])
def test_the_shifted_edm_is_the_papers(sd: float) -> None:
    """c_skip = sd^2 / ((t - b)^2 + sd^2), c_out = sd (t - b) / sqrt(t^2 + sd^2)."""
    t, b = levels(), 0.002
    c = Consistency(EDM(sd), b)(t)
    torch.testing.assert_close(c.c_skip, sd**2 / ((t - b) ** 2 + sd**2))
    torch.testing.assert_close(c.c_out, sd * (t - b) / (t**2 + sd**2).sqrt())


def test_vps_noise_input_inverts_its_noise_level() -> None:
    time = VP()(levels()).c_noise / 999
    sigma = ((19.9 / 2 * time**2 + 0.1 * time).exp() - 1).sqrt()
    torch.testing.assert_close(sigma, levels(), rtol=1e-10, atol=0)


def test_ves_noise_input_is_the_log_of_half_the_level() -> None:
    torch.testing.assert_close(
        VE()(torch.tensor([2.0, 2 * math.e])).c_noise, torch.tensor([0.0, 1])
    )


@pytest.mark.parametrize("betas", ["linear", "scaled_linear"])
def test_ddpms_levels_are_those_of_its_chain(betas: Any) -> None:
    """x_i = sqrt(1 - beta_i) x_(i-1) + sqrt(beta_i) z, step by step, in units of the image."""
    start, end, steps = 0.001, 0.05, 50
    signal, variance, chain = 1.0, 0.0, []
    for i in range(steps):
        if betas == "linear":
            beta = start + (end - start) * i / (steps - 1)
        else:
            beta = (start**0.5 + (end**0.5 - start**0.5) * i / (steps - 1)) ** 2
        signal, variance = signal * math.sqrt(1 - beta), variance * (1 - beta) + beta
        chain.append(math.sqrt(variance) / signal)
    found = DDPM(betas=betas, beta_start=start, beta_end=end, timesteps=steps).levels
    torch.testing.assert_close(found, torch.tensor(chain, dtype=torch.float64), rtol=1e-10, atol=0)


def test_cosine_levels_are_the_recursion_of_iddpm() -> None:
    """u_M = 0, u_(j-1) = sqrt((u_j^2 + 1) / max(a_(j-1) / a_j, C_1) - 1) with a_j = sin^2(pi j / (2
    M (C_2 + 1))): Karras et al. 2022, arXiv 2206.00364, Table 1."""
    steps, u = 1000, [0.0]
    a = [math.sin(math.pi / 2 * j / (steps * 1.008)) ** 2 for j in range(steps + 1)]
    for j in range(steps, 0, -1):
        u.append(math.sqrt((u[-1] ** 2 + 1) / max(a[j - 1] / a[j], 0.001) - 1))
    found = DDPM(betas="cosine", timesteps=steps).levels
    torch.testing.assert_close(found, torch.tensor(u[1:], dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "cosine"])
def test_ddpms_noise_input_is_the_number_of_the_nearest_level(betas: Any) -> None:
    form = DDPM(betas=betas)
    sigma = torch.cat([form.levels, levels(), torch.tensor([0.0, 1e6])])
    nearest = (sigma[:, None] - form.levels).abs().argmin(1)
    assert torch.equal(form(sigma).c_noise, nearest.double())
    assert torch.equal(form(form.levels.float()).c_noise, torch.arange(1000.0))


def test_settings_say_the_form() -> None:
    assert preconditioner(DenoiserSettings()) == EDM()
    assert preconditioner(DenoiserSettings(scalings="vp")) == VP()
    assert preconditioner(DenoiserSettings(scalings="ve", sigma_data=1.0)) == VE(1.0)
    assert preconditioner(DenoiserSettings(precond="consistency")) == Consistency(EDM(), 0.002)
    text = """
[loss]
name = "cd"
[denoiser]
precond = "consistency"
scalings = "ddpm"
prediction = "v"
betas = "scaled_linear"
beta_start = 0.00085
beta_end = 0.012
timesteps = 500
boundary = 0.03
"""
    form = DDPM(0.5, "v", "scaled_linear", 0.00085, 0.012, 500)
    assert preconditioner(parse(text, "a recipe").denoiser) == Consistency(form, 0.03)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"precond": "consistency", "scalings": "ddpm", "prediction": "sample"},
            "needs prediction epsilon or v with precond=consistency, got prediction=sample",
        ),
        ({"beta_start": 0.0}, "needs 0 < beta_start <= beta_end, got beta_start=0.0"),
        ({"beta_end": 1.0}, "needs beta_end < 1, got beta_end=1.0"),
        ({"timesteps": 1}, "needs 2 <= timesteps <= 100000, got timesteps=1"),
    ],
)
def test_senseless_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        DenoiserSettings(**fields)
    assert str(caught.value) == message
