"""Inpainting: new pixels for a part of a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.editors.base import Edit, Editor, clamp
from cmtool.solvers.base import Noise


@dataclass(frozen=True)
class Inpaint(Editor):
    """Repaints a part of a picture: white in a mask, a box, or what is transparent.

    Source:
        Song et al. 2023, arXiv 2303.01469, Appendix D.
    """

    group: ClassVar[Literal["exact"]] = "exact"
    sizes: ClassVar[Literal["resize"]] = "resize"
    steps: ClassVar[int] = 18
    pictures: ClassVar[Mapping[str, Literal["aligned"]]] = {"mask": "aligned"}

    def prepare(self, reference: Tensor, rng: Noise, **pictures: Tensor) -> Edit:
        known = (pictures["mask"] < 0.5).expand_as(reference)
        y = torch.where(known, reference, 0)

        def project(x: Tensor) -> Tensor:
            return torch.where(known, y, x)

        return Edit(
            shown=y,
            measure=lambda x: torch.where(known, x, 0),
            y=y,
            project=project,
            settle=lambda x: project(clamp(x)),
        )

    def degrade(self, image: Tensor, rng: Noise, **pictures: Tensor) -> Tensor:
        return torch.where(pictures["mask"] < 0.5, image, 0)
