"""Before training: do the loss, the scalings and the network go together, and is the network's
derivative along a trajectory, if the loss takes it, of a size that can go well?"""

import copy
import math
import warnings

import torch
from torch import nn

from cmtool import registry
from cmtool.denoiser import Denoiser
from cmtool.errors import RecipeError, Say
from cmtool.losses.base import Loss
from cmtool.losses.ect import ECT
from cmtool.networks.edm2 import Edm2
from cmtool.recipe import DenoiserSettings, Recipe

WARN = 5.0
"""Above this, training by the derivative is known to become unstable."""
LEVELS = (0.02, 0.2, 2.0, 20.0)
IMAGES = 4


def check_scalings(settings: DenoiserSettings, loss: Loss) -> None:
    """What a student's scalings rule out.

    Raises:
        RecipeError: The loss.
    """
    name, form = registry.name_of("losses", type(loss)), settings.scalings
    image = form == "ddpm" and settings.prediction == "sample"
    if loss.kind == "consistency" and image:
        raise RecipeError(
            "a network that predicts the image itself (denoiser.prediction = 'sample') is the "
            "identity at no noise level, as a consistency model must be",
            "a teacher that predicts epsilon or v, or --method pd",
        )
    if loss.uses_raw and form != "edm":
        raise RecipeError(
            f"loss '{name}' is written for denoiser.scalings 'edm', not '{form}'",
            "--method cd",
        )
    if loss.uses_jvp and form == "ddpm":
        raise RecipeError(
            f"loss '{name}' takes the derivative by the noise level, and a network with "
            f"denoiser.scalings '{form}' knows numbered levels alone",
            "--method cd",
        )


def say_known_trouble(recipe: Recipe, say: Say) -> None:
    """Networks and scalings that are known to make consistency models hard to train."""
    form = recipe.denoiser.scalings
    loud = recipe.loss.kind == "consistency" and form in ("vp", "ve", "ddpm")
    if loud and getattr(recipe.loss, "weighting", "snr") != "snr":
        say(
            f"note: with denoiser.scalings '{form}' an error of the network grows with the noise "
            "level; --set loss.weighting=snr helped in a short run from a vp teacher"
        )
    safe = recipe.loss.kind != "consistency" or isinstance(recipe.loss, ECT)
    if isinstance(recipe.network, Edm2) and not safe:
        say(
            "warning: EDM2's network is known to fail as a consistency model (black images): the "
            "noise level enters by fast random frequencies, and nothing bounds what it scales by"
        )
        say(
            "  --method ect is known to work from it; for another, train a teacher with --set "
            "network.name=ddpmpp, or --set network.fourier_scale=0.02 --set "
            "network.normalize_affine=true"
        )


def check_tangent(recipe: Recipe, student: Denoiser, *, fresh: bool, say: Say) -> None:
    """Says how strongly the network's time input drives it and how its derivative is taken.

    Raises:
        RecipeError: More strongly than the loss's `tangent_limit`.
    """
    limit: float = getattr(recipe.loss, "tangent_limit", math.inf)
    inside = getattr(recipe.loss, "tangent_precision", "autocast")
    run = {"no": "float32"}.get(recipe.train.precision, recipe.train.precision)
    precision = "float32, without TF32" if inside == "float32" else run
    ratio, sigma = max(time_ratio(student, fresh=fresh))
    say(
        f"derivative along the trajectory: in {precision}; attention by the plain formula; the "
        f"time input's part is up to {ratio:.2g} times the network's output"
    )
    if ratio <= min(WARN, limit):
        return
    found = f"the network changes {ratio:.3g} times its output with ln sigma (at sigma {sigma:g})"
    cure = _cure(recipe)
    if ratio > limit:
        raise RecipeError(
            f"{found}, above loss.tangent_limit {limit:g}",
            f"{cure}; or --set loss.tangent_limit={math.ceil(ratio) + 1} to try it",
        )
    say(f"warning: {found}; above {WARN:g} training may diverge")
    say(f"  {cure}")


def time_ratio(student: Denoiser, *, fresh: bool) -> list[tuple[float, float]]:
    """||dF/d ln sigma|| / ||F|| through the network's time input alone, and where: pairs (ratio,
    sigma), one for each of a few noise levels.

    d/d ln sigma is cos(t) sin(t) d/dt, the derivative that sCM takes.

    Source:
        Lu & Song 2024, arXiv 2410.11081, Section 4.1.

    Args:
        student: The model, left as it is.
        fresh: Its weights are random. Then normal ones of unit gain stand in for them, because
            fresh networks end in zeros.
    """
    network = copy.deepcopy(student.network).float().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    if fresh:
        _draw_weights(network, generator)
    device = student.device
    sigma = torch.tensor(LEVELS).repeat_interleave(IMAGES)
    x = torch.randn(len(sigma), *student.image_shape, generator=generator).to(device)
    sigma = sigma.to(device)
    with warnings.catch_warnings():
        # torch's own use of something old, at the first forward-mode derivative of a process.
        warnings.simplefilter("ignore", FutureWarning)
        value, change, *_ = torch.func.jvp(
            lambda sigma: network(x, student.precond(sigma).c_noise), (sigma,), (sigma,)
        )
    norms = [part.reshape(len(LEVELS), -1).norm(dim=1) for part in (change, value)]
    ratios = (norms[0] / norms[1].clamp(min=1e-20)).tolist()
    return list(zip(ratios, LEVELS, strict=True))


def _draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            gain = math.sqrt(len(parameter) / parameter.numel())
            drawn = torch.randn(parameter.shape, generator=generator) * gain
            parameter.copy_(drawn.to(parameter))
        elif parameter.ndim == 0:  # A gain, which starts at zero as well.
            parameter.fill_(1.0)


def _cure(recipe: Recipe) -> str:
    """The recipe keys that slow the time input down."""
    keys = []
    if recipe.denoiser.noise_scale > 0.25:
        keys.append("--set denoiser.noise_scale=0.25")
    if getattr(recipe.network, "fourier_scale", 0.0) > 0.02:
        keys.append("--set network.fourier_scale=0.02")
    if not keys and not getattr(recipe.network, "normalize_affine", True):
        keys.append("--set network.normalize_affine=true")
    return " ".join(keys) or "a network with slower frequencies: --set network.name=ddpmpp"
