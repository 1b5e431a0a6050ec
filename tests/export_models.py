"""Small models with weights that are nowhere zero, as files to export."""

from pathlib import Path
from typing import Any

import golden_cases
import torch

from cmtool import checkpoint, registry
from cmtool.checkpoint import Meta
from cmtool.losses.cd import CD
from cmtool.losses.dsm import DSM
from cmtool.preconditioner import ddpm_levels
from cmtool.recipe import Recipe
from cmtool.schedules.karras import Karras
from cmtool.settings import DenoiserSettings
from cmtool.solvers.heun import Heun

SMALL: dict[str, dict[str, Any]] = {
    "tiny": {"width": 16, "blocks": 1, "attention": True, "head_channels": 8},
    "ddpmpp": {"channels": 16, "channel_mult": (1, 2), "blocks": 1, "attention": (4,)},
    "ncsnpp": {"channels": 16, "channel_mult": (1, 2), "blocks": 1, "attention": (4,)},
    "adm": {
        "channels": 32,
        "channel_mult": (1, 2),
        "blocks": 1,
        "attention": (4,),
        "head_channels": 16,
    },
    "edm2": {
        "channels": 16,
        "channel_mult": (1, 2),
        "blocks": 1,
        "attention": (4,),
        "head_channels": 16,
    },
}
"""A network that is not here is small already, and fits 8x8 images."""
OPENAI = DenoiserSettings("consistency", noise_scale=250.0)
DDPM = DenoiserSettings(scalings="ddpm")


def ddpm_range() -> Karras:
    """The noise levels of `DDPM`."""
    levels = ddpm_levels(DDPM.betas, DDPM.beta_start, DDPM.beta_end, DDPM.timesteps)
    return Karras(float(levels[0]), float(levels[-1]))


def write(
    path: Path,
    network: str = "adm",
    denoiser: DenoiserSettings = OPENAI,
    schedule: Any = None,
    kind: str = "consistency",
    shape: tuple[int, int, int] = (3, 8, 8),
    classes: int = 5,
    times: dict[Any, tuple[float, ...]] | None = None,
    grid: tuple[float, ...] = (),
    **fields: Any,
) -> Path:
    """A single file of ours; `fields` are the network's, beside or in place of the small ones."""
    spec = registry.load("networks", network)(**{**SMALL.get(network, {}), **fields})
    channels, size, _ = shape
    net = spec.build(size, channels, classes)
    shapes = {key: list(p.shape) for key, p in net.named_parameters()}
    net.load_state_dict(golden_cases.parameters(shapes, seed=3), strict=False)
    recipe = Recipe(
        network=spec,
        denoiser=denoiser,
        schedule=schedule or Karras(),
        solver=Heun(),
        loss=CD(levels=40) if kind == "consistency" else DSM(),
    )
    names = tuple(f"class {i}" for i in range(classes))
    origin = {"data": {"name": "digits"}}
    meta = Meta(kind, shape, names, grid, times or {}, origin=origin)  # type: ignore[arg-type]
    checkpoint.write_file(path, meta, recipe, net.state_dict())
    return path


def probe(shape: tuple[int, int, int] = (3, 8, 8)) -> tuple[torch.Tensor, ...]:
    """(x, sigma, label) for three images."""
    sigma = torch.tensor([0.01, 0.7, 60.0])
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(4))
    return x * (0.5 + sigma[:, None, None, None]), sigma, torch.tensor([3, 0, 4])
