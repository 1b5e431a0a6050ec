"""A folder of the diffusers library: a UNet2DModel and the scheduler that it was trained for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from cmtool.denoiser import Denoiser
from cmtool.foreign import diffusers
from cmtool.formats import _diffusers
from cmtool.formats._adm import adm, edm_form, karras, settings
from cmtool.formats.base import Format, Pair, Source, module
from cmtool.preconditioner import ddpm_levels
from cmtool.tensors import expand
from cmtool.workflows.load import open_model

NAME = "diffusers"


@dataclass(frozen=True)
class Diffusers(Format):
    """What ConsistencyModelPipeline or DDIMPipeline loads, and cmtool too."""

    suffix: ClassVar[str] = ""
    title: ClassVar[str] = "a folder for diffusers, and for cmtool"
    needs: ClassVar[tuple[str, ...]] = ("diffusers",)
    without_class: ClassVar[bool] = False

    def check(self, source: Source) -> None:
        adm(NAME, source)
        given, schedule = karras(NAME, source)
        wanted: list[tuple[str, object, object]] = []
        if source.denoiser.kind == "consistency":
            edm_form(NAME, source, schedule.sigma_min)
        else:
            levels = ddpm_levels(given.betas, given.beta_start, given.beta_end, given.timesteps)
            wanted = [
                ("denoiser.scalings", given.scalings, "ddpm"),
                ("denoiser.precond", given.precond, "edm"),
                ("schedule.sigma_min", schedule.sigma_min, float(levels[0])),
                ("schedule.sigma_max", schedule.sigma_max, float(levels[-1])),
            ]
        settings(NAME, source, wanted)

    def write(self, source: Source, path: Path) -> None:
        model, spec = source.denoiser, adm(NAME, source)
        channels, size, _ = model.image_shape
        scheduler = _diffusers.scheduler(source)
        parts = {
            "model_index.json": _diffusers.index(model, scheduler),
            "unet/config.json": _diffusers.network(spec, model),
            "scheduler/scheduler_config.json": scheduler,
        }
        for name, content in parts.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(content, indent=2) + "\n"
            (path / name).write_text(text, encoding="utf-8")
        state = diffusers.to_theirs(source.state(), spec, size, channels, model.num_classes)
        # Queries, keys and values are parts of one tensor here, and their own there.
        whole = {key: tensor.contiguous().clone() for key, tensor in state.items()}
        save_file(whole, path / "unet" / diffusers.WEIGHTS[0], metadata={"format": "pt"})

    def pairs(self, source: Source, path: Path) -> list[Pair]:
        library = module("diffusers")
        unet = library.UNet2DModel.from_pretrained(path / "unet").eval()
        kind = getattr(library, _diffusers.scheduler(source)["_class_name"])
        scheduler = kind.from_pretrained(path / "scheduler")
        consistency = source.denoiser.kind == "consistency"
        model = source.denoiser
        if consistency:
            theirs = Pair("diffusers", model, _Boundary(unet, scheduler))
        else:  # The scheduler computes in float32, and divides by a small number at the end.
            numbered = _Numbered(unet, scheduler, model)
            levels = _middle(source)
            theirs = Pair("diffusers", model, numbered, tolerance=1e-4, levels=levels)
        return [theirs, Pair("cmtool.load", model, open_model(path).denoiser)]

    def usage(self, source: Source, name: str) -> str:
        return _diffusers.usage(source, name)


@dataclass(frozen=True)
class _Boundary:
    """diffusers' network in the scalings of its consistency scheduler."""

    unet: Any
    scheduler: Any

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        c_skip, c_out = self.scheduler.get_scalings_for_boundary_condition(sigma)
        times = torch.from_numpy(self.scheduler.sigma_to_t(sigma.double().numpy()))
        scale = (sigma.square() + self.scheduler.config.sigma_data**2).sqrt()
        raw: Tensor = self.unet(x / expand(scale, x), times, label).sample
        return expand(c_out, x) * raw + expand(c_skip, x) * x


@dataclass(frozen=True)
class _Numbered:
    """diffusers' network and scheduler of numbered steps, whose images have unit variance."""

    unet: Any
    scheduler: Any
    model: Denoiser

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        steps = self.model.precond(sigma).c_noise.long()
        self.scheduler.set_timesteps(self.scheduler.config.num_train_timesteps)
        scaled = x / expand((1 + sigma.square()).sqrt(), x)
        raw = self.unet(scaled, steps, label).sample
        rows = [
            self.scheduler.step(raw[i : i + 1], int(step), scaled[i : i + 1]).pred_original_sample
            for i, step in enumerate(steps)
        ]
        return torch.cat(rows)


def _middle(source: Source) -> tuple[float, ...]:
    """Smallest, middle and largest of the numbered noise levels: there are none between."""
    given, _ = karras(NAME, source)
    levels = ddpm_levels(given.betas, given.beta_start, given.beta_end, given.timesteps)
    return float(levels[0]), float(levels[len(levels) // 2]), float(levels[-1])
