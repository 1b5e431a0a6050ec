"""Tomography: a picture from a few of its shadows."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.editors._physics import iterative_edit, library
from cmtool.editors.base import Edit, Editor
from cmtool.solvers.base import Noise


@dataclass(frozen=True)
class Ct(Editor):
    """Measures a picture's sums along parallel rays from a few directions, and finds pictures with
    the same sums; each channel by itself.

    Args:
        views: Directions, evenly spread over half a turn.
        tol: How much of the measured sums the result's may miss.
    """

    group: ClassVar[Literal["iterative"]] = "iterative"
    sizes: ClassVar[Literal["model"]] = "model"
    steps: ClassVar[int] = 18
    degrades: ClassVar[bool] = True

    views: int = 12
    tol: float = 3e-3

    def __post_init__(self) -> None:
        if not (self.views >= 1 and self.tol > 0):
            raise ValueError(f"needs views >= 1 and tol > 0, got {self.views} and {self.tol}")

    def prepare(self, reference: Tensor, rng: Noise, **pictures: Tensor) -> Edit:
        height, width = reference.shape[2:]
        side = max(height, width)
        turn = torch.arange(self.views, dtype=reference.dtype, device=reference.device)
        physics = library().Tomography(
            angles=180 * turn / self.views,
            img_width=side,
            circle=False,
            normalize=False,
            adjoint_via_backprop=True,
            dtype=reference.dtype,
            device=reference.device,
        )

        def measure(x: Tensor) -> Tensor:
            square = torch.nn.functional.pad(x, (0, side - width, 0, side - height))
            sums: Tensor = physics.A(square)
            return sums

        def crop(square: Tensor) -> Tensor:
            return square[:, :, :height, :width]

        def adjoint(sums: Tensor) -> Tensor:
            return crop(physics.A_adjoint(sums))

        y = measure(reference)
        return iterative_edit(measure, adjoint, y, crop(physics.fbp(y)), tol=self.tol)
