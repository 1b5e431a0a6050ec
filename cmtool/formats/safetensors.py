"""One safetensors file, with the configuration in its header."""

from dataclasses import dataclass
from typing import ClassVar

from cmtool.formats._single import Single
from cmtool.formats.base import Source


@dataclass(frozen=True)
class Safetensors(Single):
    """Weights and configuration in one file that every command takes; no pickle."""

    suffix: ClassVar[str] = ".safetensors"
    title: ClassVar[str] = "one file, for cmtool"

    def usage(self, source: Source, name: str) -> str:
        return (
            f'```python\nimport cmtool\n\nmodel = cmtool.load("{name}")\n'
            f"images = cmtool.sample(model, n=16)  # in [-1, 1]\n```\n\n"
            f"`cmtool sample {name} --n 16 --out grid.png`"
        )
