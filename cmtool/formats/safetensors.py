"""One safetensors file, with the configuration in its header."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cmtool import checkpoint
from cmtool.formats.base import Format, Pair, Source
from cmtool.workflows.load import open_model


@dataclass(frozen=True)
class Safetensors(Format):
    """Weights and configuration in one file that every command takes; no pickle."""

    suffix: ClassVar[str] = ".safetensors"
    title: ClassVar[str] = "one file, for cmtool"

    def write(self, source: Source, path: Path) -> None:
        checkpoint.write_file(path, source.model.meta, source.model.recipe, source.state())

    def pairs(self, source: Source, path: Path) -> list[Pair]:
        return [Pair("cmtool.load", source.denoiser, open_model(path).denoiser)]

    def usage(self, source: Source, name: str) -> str:
        return (
            f'```python\nimport cmtool\n\nmodel = cmtool.load("{name}")\n'
            f"images = cmtool.sample(model, n=16)  # in [-1, 1]\n```\n\n"
            f"`cmtool sample {name} --n 16 --out grid.png`"
        )
