"""Preconditioners: how a network's input and output are scaled at each noise level.

    D(x_t, t) = c_skip(t) x_t + c_out(t) F(c_in(t) x_t, c_noise(t))

x_t is always an image plus noise of standard deviation t. A form belongs to the network's weights:
in another one they mean nothing. `Consistency` moves any form's boundary.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cmtool.settings import DenoiserSettings

NoiseInput = Literal["log", "angle"]
Prediction = Literal["epsilon", "v", "sample"]
Betas = Literal["linear", "scaled_linear", "cosine"]


class Scalings(NamedTuple):
    """The four functions of the preconditioning at times t, each (B,)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Preconditioner(ABC):
    """How a network's input and output are scaled at each noise level."""

    @property
    @abstractmethod
    def sigma_data(self) -> float:
        """Standard deviation of the data, in units of pixel value."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Scalings:
        """Scalings at noise levels t (B,), in t's dtype."""


@dataclass(frozen=True)
class EDM(Preconditioner):
    """Unit-variance input and target for data of standard deviation sigma_data.

    TrigFlow's D = cos(t) x_t - sin(t) sigma_data F is the same function with -F for F: see
    `cmtool.schedules.trigflow`. There the network's noise input is the angle.

    Source:
        Karras et al. 2022, arXiv 2206.00364, Table 1. c_noise is ln(t) / 4 there; OpenAI's networks
        take 250 ln(t). The angle: Lu & Song 2024, arXiv 2410.11081, Section 4.1.

    Args:
        sigma_data: Standard deviation of the data, in units of pixel value.
        noise_scale: c_noise = noise_scale * ln(t), or noise_scale * atan(t / sigma_data).
        noise_input: "log" or "angle", which of the two.
    """

    sigma_data: float = 0.5
    noise_scale: float = 0.25
    noise_input: NoiseInput = "log"

    def __call__(self, t: Tensor) -> Scalings:
        total = t.square() + self.sigma_data**2
        angle = self.noise_input == "angle"
        return Scalings(
            c_skip=self.sigma_data**2 / total,
            c_out=t * self.sigma_data / total.sqrt(),
            c_in=total.rsqrt(),
            c_noise=self.noise_scale * (torch.atan(t / self.sigma_data) if angle else t.log()),
        )


@dataclass(frozen=True)
class VP(Preconditioner):
    """A network that returns the noise, told of the time of a variance-preserving process.

    sigma^2 = exp(beta_d s^2 / 2 + beta_min s) - 1 at time s in [0, 1]; c_noise = 999 s.

    Source:
        Karras et al. 2022, arXiv 2206.00364, Table 1, column "VP"; Song et al. 2021, arXiv
        2011.13456.

    Args:
        sigma_data: Read by the losses' weights alone.
    """

    sigma_data: float = 0.5

    def __call__(self, t: Tensor) -> Scalings:
        beta_d, beta_min = 19.9, 0.1
        # Rounded as where the published networks were trained: no log1p.
        grown = (1 + t.square()).log()
        time = ((beta_min**2 + 2 * beta_d * grown).sqrt() - beta_min) / beta_d
        return Scalings(torch.ones_like(t), -t, (1 + t.square()).rsqrt(), 999 * time)


@dataclass(frozen=True)
class VE(Preconditioner):
    """A network that returns the negative noise and sees the noisy image as it is.

    Source:
        Karras et al. 2022, arXiv 2206.00364, Table 1, column "VE"; Song et al. 2021, arXiv
        2011.13456.

    Args:
        sigma_data: Read by the losses' weights alone.
    """

    sigma_data: float = 0.5

    def __call__(self, t: Tensor) -> Scalings:
        one = torch.ones_like(t)
        return Scalings(one, t, one, (t / 2).log())


@dataclass(frozen=True)
class DDPM(Preconditioner):
    """A network that was trained on a variance-preserving process of numbered steps.

    x_i = sqrt(a_i) x + sqrt(1 - a_i) noise, a_i = prod_{j <= i} (1 - beta_j), i = 0 .. M - 1; in
    units of the image that is the noise level sigma_i = sqrt((1 - a_i) / a_i). c_noise is the
    number of the nearest level, so the model's answer jumps halfway between two.

    Source:
        Ho et al. 2020, arXiv 2006.11239; cosine: Nichol & Dhariwal 2021, arXiv 2102.09672, Eq. 17;
        v: Salimans & Ho 2022, arXiv 2202.00512, Appendix D. As scalings: Karras et al. 2022, arXiv
        2206.00364, Table 1, column "iDDPM".

    Args:
        sigma_data: Read by the losses' weights alone.
        prediction: What the network returns: the noise, v = sqrt(a) noise - sqrt(1 - a) x, or x.
        betas: beta_i grows linearly, or its root does, or "cosine".
        beta_start: beta_0, but of "cosine".
        beta_end: beta_(M-1), but of "cosine".
        timesteps: M.
    """

    sigma_data: float = 0.5
    prediction: Prediction = "epsilon"
    betas: Betas = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    timesteps: int = 1000

    @property
    def levels(self) -> Tensor:
        """The noise levels sigma_0 < ... < sigma_(M-1), (M,) float64."""
        return ddpm_levels(self.betas, self.beta_start, self.beta_end, self.timesteps)

    def __call__(self, t: Tensor) -> Scalings:
        c_in = (1 + t.square()).rsqrt()
        c_skip, c_out = {
            "epsilon": (torch.ones_like(t), -t),
            "v": (c_in.square(), -t * c_in),
            "sample": (torch.zeros_like(t), torch.ones_like(t)),
        }[self.prediction]
        levels = self.levels
        halfway = ((levels[1:] + levels[:-1]) / 2).to(t)
        return Scalings(c_skip, c_out, c_in, torch.bucketize(t.contiguous(), halfway).to(t))


@cache
def ddpm_levels(betas: Betas, start: float, end: float, steps: int) -> Tensor:
    """See `DDPM.levels`."""
    i = torch.arange(steps + 1, dtype=torch.float64)
    if betas == "cosine":
        share = torch.cos((i / steps + 0.008) / 1.008 * math.pi / 2).square()
        kept = (share[1:] / share[:-1]).clamp(min=0.001)
    elif betas == "linear":
        kept = 1 - (start + i[:-1] / (steps - 1) * (end - start))
    else:
        kept = 1 - (start**0.5 + i[:-1] / (steps - 1) * (end**0.5 - start**0.5)).square()
    a = kept.cumprod(0)
    return ((1 - a) / a).sqrt()


@dataclass(frozen=True)
class Consistency(Preconditioner):
    """Another form shifted so that D(x, boundary) = x exactly.

        c_skip'(t) = c_skip(t - b)    c_out'(t) = c_out(t) (t - b) / t

    c_in and c_noise stay, and far above b so does D: a network that begins with a diffusion model's
    weights begins with its function. That needs c_skip(0) = 1, so a network that returns the image
    itself cannot be shifted.

    Source:
        Song et al. 2023, arXiv 2303.01469, Appendix C, for the form of EDM.

    Args:
        form: What is shifted.
        boundary: Noise level b at which the model is the identity; 0.002 in the paper.
    """

    form: Preconditioner = EDM()
    boundary: float = 0.002

    @property
    def sigma_data(self) -> float:
        return self.form.sigma_data

    def __call__(self, t: Tensor) -> Scalings:
        shifted = t - self.boundary
        c = self.form(t)
        return c._replace(
            c_skip=self.form(shifted).c_skip, c_out=c.c_out * shifted / t.clamp(min=1e-20)
        )


def preconditioner(settings: DenoiserSettings) -> Preconditioner:
    """The preconditioner that a recipe's denoiser section describes."""
    sd = settings.sigma_data
    forms: dict[str, Preconditioner] = {
        "edm": EDM(sd, settings.noise_scale, settings.noise_input),
        "vp": VP(sd),
        "ve": VE(sd),
        "ddpm": DDPM(
            sd,
            settings.prediction,
            settings.betas,
            settings.beta_start,
            settings.beta_end,
            settings.timesteps,
        ),
    }
    form = forms[settings.scalings]
    return Consistency(form, settings.boundary) if settings.precond == "consistency" else form
