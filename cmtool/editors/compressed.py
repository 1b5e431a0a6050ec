"""Compressed sensing: a picture from random projections."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.editors._physics import exact_edit, library
from cmtool.editors.base import Edit, Editor
from cmtool.solvers.base import Noise


@dataclass(frozen=True)
class Compressed(Editor):
    """Measures random projections of a picture, fewer than it has pixels, and finds pictures with
    the same; each channel by itself.

    The pixels' signs are flipped at random, for each image anew, and the middle of the line's sine
    transform is kept: rows that are orthonormal at any size.

    Source:
        Do et al. 2012, "Fast and efficient compressive sensing using structurally random matrices",
        arXiv 1106.5037.

    Args:
        ratio: Projections for each pixel.
    """

    group: ClassVar[Literal["exact"]] = "exact"
    sizes: ClassVar[Literal["model"]] = "model"
    steps: ClassVar[int] = 18
    degrades: ClassVar[bool] = True

    ratio: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"needs ratio in (0, 1], got {self.ratio}")

    def prepare(self, reference: Tensor, rng: Noise, **pictures: Tensor) -> Edit:
        b, c, h, w = reference.shape
        kept = max(1, round(self.ratio * h * w))
        signs = torch.where(rng.randn((1, 1, h * w)) < 0, -1, 1).to(reference)
        physics = library().StructuredRandom(
            (c, 1, h * w), (c, 1, kept), diagonals=[signs], device=reference.device
        )

        def measure(x: Tensor) -> Tensor:
            projected: Tensor = physics.A(x.reshape(b, c, 1, h * w))
            return projected

        def adjoint(y: Tensor) -> Tensor:
            image: Tensor = physics.A_adjoint(y)
            return image.reshape(b, c, h, w)

        return exact_edit(measure, adjoint, reference)
