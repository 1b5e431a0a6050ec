"""The files of OpenAI's consistency models: a plain state dict under that code's names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from cmtool.foreign import openai
from cmtool.formats._adm import adm, edm_form, karras, precond_of, settings
from cmtool.formats.base import Format, Pair, Source, refuse
from cmtool.workflows.load import open_model

NAME = "openai"


@dataclass(frozen=True)
class OpenAi(Format):
    """Weights alone, which `image_sample.py` of the released code loads, and cmtool with --as."""

    suffix: ClassVar[str] = ".pt"
    title: ClassVar[str] = "a state dict for the code of openai/consistency_models"

    def check(self, source: Source) -> None:
        network = adm(NAME, source)
        given, schedule = karras(NAME, source)
        edm_form(NAME, source, schedule.sigma_min)
        settings(
            NAME,
            source,
            [
                ("network.flavor", network.flavor, "openai"),
                ("network.norm_groups", network.norm_groups, 32),
                ("network.middle_attention", network.middle_attention, True),
                ("denoiser.sigma_data", given.sigma_data, 0.5),
                ("schedule.rho", schedule.rho, 7.0),
            ],
        )
        if not network.head_channels:
            why = "attention is told as channels of a head"
            raise refuse(NAME, "network.head_channels = 0", why)

    def write(self, source: Source, path: Path) -> None:
        channels, size, _ = source.denoiser.image_shape
        spec = adm(NAME, source)
        state = openai.to_theirs(source.state(), spec, size, channels, source.denoiser.num_classes)
        torch.save(state, path)

    def pairs(self, source: Source, path: Path) -> list[Pair]:
        opened = open_model(path, facts=_facts(source))
        return [Pair("cmtool.load --as", source.denoiser, opened.denoiser)]

    def usage(self, source: Source, name: str) -> str:
        words = " ".join(f"--as {key}={value}" for key, value in _facts(source).items())
        python = ", ".join(f"{key}={value!r}" for key, value in _facts(source).items())
        network, classes = adm(NAME, source), bool(source.denoiser.num_classes)
        flags = {
            "num_channels": network.channels,
            "num_res_blocks": network.blocks,
            "channel_mult": ",".join(map(str, network.channel_mult)),
            "attention_resolutions": ",".join(map(str, network.attention)),
            "num_head_channels": network.head_channels,
            "use_scale_shift_norm": network.scale_shift,
            "resblock_updown": network.resblock_updown,
            "class_cond": classes,
        }
        return (
            f"The file holds no settings, so they are given each time:\n\n"
            f"`cmtool sample {name} {words}`\n\n"
            f'```python\nmodel = cmtool.load("{name}", {python})\n```\n\n'
            f"The network in the words of the released code: "
            f"`{' '.join(f'--{key} {value}' for key, value in flags.items())}`.\n\n"
            f"Names of classes, stored noise levels and guidance without a class are not in it."
        )


def _facts(source: Source) -> dict[str, Any]:
    """What the file does not tell."""
    _, schedule = karras(NAME, source)
    return {
        "image_size": source.denoiser.image_shape[1],
        "head_channels": adm(NAME, source).head_channels,
        "precond": precond_of(source.denoiser),
        "sigma_min": schedule.sigma_min,
        "sigma_max": schedule.sigma_max,
    }
