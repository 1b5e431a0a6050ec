"""One file of torch: plain tensors and a text, which `torch.load(weights_only=True)` reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cmtool import checkpoint
from cmtool.formats.base import Format, Pair, Source
from cmtool.workflows.load import open_model


@dataclass(frozen=True)
class Pt(Format):
    """Weights by name and the configuration in one file that every command takes."""

    suffix: ClassVar[str] = ".pt"
    title: ClassVar[str] = "one file, for cmtool and torch.load(weights_only=True)"

    def write(self, source: Source, path: Path) -> None:
        checkpoint.write_file(path, source.model.meta, source.model.recipe, source.state())

    def pairs(self, source: Source, path: Path) -> list[Pair]:
        return [Pair("cmtool.load", source.denoiser, open_model(path).denoiser)]

    def usage(self, source: Source, name: str) -> str:
        return (
            f'```python\nimport torch\n\nfile = torch.load("{name}", weights_only=True)\n'
            'file["weights"]  # tensors by name\nfile["cmtool"]  # the configuration, JSON\n```\n\n'
            f"`cmtool sample {name} --n 16 --out grid.png`"
        )
