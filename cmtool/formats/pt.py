"""One file of torch: plain tensors and a text, which `torch.load(weights_only=True)` reads."""

from dataclasses import dataclass
from typing import ClassVar

from cmtool.formats._single import Single
from cmtool.formats.base import Source


@dataclass(frozen=True)
class Pt(Single):
    """Weights by name and the configuration in one file that every command takes."""

    suffix: ClassVar[str] = ".pt"
    title: ClassVar[str] = "one file, for cmtool and torch.load(weights_only=True)"

    def usage(self, source: Source, name: str) -> str:
        return (
            f'```python\nimport torch\n\nfile = torch.load("{name}", weights_only=True)\n'
            'file["weights"]  # tensors by name\nfile["cmtool"]  # the configuration, JSON\n```\n\n'
            f"`cmtool sample {name} --n 16 --out grid.png`"
        )
