"""One file of torch.export: a program without this tool's code."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from cmtool.formats import _graph
from cmtool.formats.base import Format, Pair, Source


@dataclass(frozen=True)
class Pt2(Format):
    """A program for torch alone, to run, compile or lower further; any batch."""

    suffix: ClassVar[str] = ".pt2"
    title: ClassVar[str] = "one program, for torch.export.load"
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    sampler: ClassVar[bool] = True

    def check(self, source: Source) -> None:
        _graph.check("pt2", source)

    def write(self, source: Source, path: Path) -> None:
        torch.export.save(_graph.program(source), path)

    def pairs(self, source: Source, path: Path) -> list[Pair]:
        return [_graph.pair("torch.export", source, torch.export.load(path).module())]

    def usage(self, source: Source, name: str) -> str:
        given = ", ".join(_graph.names(source))
        return (
            f'```python\nimport torch\n\nprogram = torch.export.load("{name}").module()\n'
            f"image = program({given})\n```\n\n{_graph.inputs(source)}"
        )
