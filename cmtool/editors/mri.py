"""Magnetic resonance imaging: a picture from some lines of its Fourier transform."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.editors._physics import exact_edit, library
from cmtool.editors.base import Edit, Editor
from cmtool.solvers.base import Noise


@dataclass(frozen=True)
class Mri(Editor):
    """Measures some rows of a picture's Fourier transform, and finds pictures with the same; each
    channel by itself.

    A row comes with its mirror image: the picture is real, so they say the same.

    Args:
        acceleration: The measured rows are one in so many.
        centre: Share of all rows, the lowest frequencies, that are always measured; the others are
            drawn.
    """

    group: ClassVar[Literal["exact"]] = "exact"
    sizes: ClassVar[Literal["model"]] = "model"
    steps: ClassVar[int] = 18
    degrades: ClassVar[bool] = True

    acceleration: float = 4.0
    centre: float = 0.08

    def __post_init__(self) -> None:
        if not (self.acceleration >= 1 and 0 <= self.centre <= 1):
            raise ValueError(
                f"needs acceleration >= 1 and centre in [0, 1], got {self.acceleration} and "
                f"{self.centre}"
            )

    def prepare(self, reference: Tensor, rng: Noise, **pictures: Tensor) -> Edit:
        b, c, h, w = reference.shape
        rows = self.rows(h, rng).to(reference)
        mask = rows[:, None, None, :, None].expand(b, c, 2, h, w).reshape(b * c, 2, h, w)
        physics = library().MRI(mask=mask, device=reference.device)

        def measure(x: Tensor) -> Tensor:
            real = x.reshape(b * c, 1, h, w)
            k: Tensor = physics.A(torch.cat([real, torch.zeros_like(real)], 1))
            return k.reshape(b, c, 2, h, w)

        def adjoint(k: Tensor) -> Tensor:
            image: Tensor = physics.A_adjoint(k.reshape(b * c, 2, h, w))
            return image[:, 0].reshape(b, c, h, w)

        return exact_edit(measure, adjoint, reference)

    def rows(self, height: int, rng: Noise) -> Tensor:
        """Which rows of the centred transform are measured, (B, height) bool, drawn for each image;
        frequency k is row height // 2 + k."""
        far = (torch.arange(height) - height // 2).abs()  # |k|, of one or two rows
        score = rng.randn((height // 2 + 1,)).cpu()
        score[:, 2 * torch.arange(height // 2 + 1) < max(1.0, self.centre * height)] = torch.inf
        order = score.argsort(dim=1, descending=True, stable=True)
        size = torch.bincount(far)[order]
        room = size.cumsum(1) - size < height / self.acceleration
        return (score.isinf().scatter(1, order, room) | score.isinf())[:, far]
