"""Colorizing: a grey picture to a coloured one of the same luma."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.editors.base import Edit, Editor, clamp
from cmtool.solvers.base import Noise

LUMA = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue, as in the released code; they add up to 0.9999."""


@dataclass(frozen=True)
class Colorize(Editor):
    """Finds colours for a grey picture and keeps its luma; of a coloured one the luma is used.

    Source:
        Song et al. 2023, arXiv 2303.01469, Appendix D; the weights are ITU-R BT.601's.
    """

    group: ClassVar[Literal["exact"]] = "exact"
    sizes: ClassVar[Literal["resize"]] = "resize"
    steps: ClassVar[int] = 18
    channels: ClassVar[int] = 3

    def prepare(self, reference: Tensor, rng: Noise, **pictures: Tensor) -> Edit:
        y = luma(reference)
        grey = neutral(y)
        weights = _weights(y)
        toward = weights / weights.square().sum()

        def project(x: Tensor) -> Tensor:
            return x + toward * (y - luma(x))

        def settle(x: Tensor) -> Tensor:
            chroma = project(x) - grey
            room = torch.where(chroma > 0, 1 - grey, 1 + grey).clamp(min=0)
            scale = (room / chroma.abs().clamp(min=1e-12)).amin(1, keepdim=True).clamp(max=1)
            return clamp(grey + scale * chroma)

        return Edit(shown=grey, measure=luma, y=y, project=project, settle=settle)

    def degrade(self, image: Tensor, rng: Noise, **pictures: Tensor) -> Tensor:
        return neutral(luma(image))


def luma(x: Tensor) -> Tensor:
    """The weighted sum of red, green and blue: (B, 3, H, W) -> (B, 1, H, W)."""
    return (_weights(x) * x).sum(1, keepdim=True)


def neutral(y: Tensor) -> Tensor:
    """The grey picture of a luma: (B, 1, H, W) -> (B, 3, H, W)."""
    return (y / _weights(y).sum()).expand(-1, 3, -1, -1)


def _weights(like: Tensor) -> Tensor:
    return like.new_tensor(LUMA).reshape(1, 3, 1, 1)
