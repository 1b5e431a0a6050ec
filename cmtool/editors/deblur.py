"""Deblurring: a sharp picture that blurs to the given one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.editors._physics import iterative_edit, library, one_by_one
from cmtool.editors.base import Edit, Editor, Map
from cmtool.errors import DataError
from cmtool.solvers.base import Noise


@dataclass(frozen=True)
class Deblur(Editor):
    """Sharpens a picture whose blur is known; beyond its border it goes on as the border pixel.

    Args:
        kernel: gaussian:SIGMA, motion:LENGTH,ANGLE (pixels; degrees, counter-clockwise from the
            horizontal), or a picture of the kernel: the brighter, the more weight.
        noise: How noisy the picture is, against how far off the model's estimates are; more is
            smoother. 0.02 suits 8 bits.
        tol: How much of the picture the blurred result may miss.
    """

    group: ClassVar[Literal["iterative"]] = "iterative"
    sizes: ClassVar[Literal["tile"]] = "tile"
    steps: ClassVar[int] = 18
    pictures: ClassVar[Mapping[str, Literal["own"]]] = {"kernel": "own"}

    kernel: str = "gaussian:2"
    noise: float = 0.02
    tol: float = 0.01

    def __post_init__(self) -> None:
        if not (self.noise >= 0 and self.tol > 0):
            raise ValueError(f"needs noise >= 0 and tol > 0, got {self.noise} and {self.tol}")
        _numbers(self.kernel)

    def prepare(self, reference: Tensor, rng: Noise, **pictures: Tensor) -> Edit:
        blur, adjoint = self._operator(reference, pictures.get("kernel"))
        return iterative_edit(blur, adjoint, reference, reference, tol=self.tol, damping=self.noise)

    def degrade(self, image: Tensor, rng: Noise, **pictures: Tensor) -> Tensor:
        return self._operator(image, pictures.get("kernel"))[0](image)

    def _operator(self, like: Tensor, picture: Tensor | None) -> tuple[Map, Map]:
        form = _numbers(self.kernel)
        if picture is not None:
            kernel = _of_picture(picture)
        elif form is None:
            raise DataError(
                f"'{self.kernel}' is neither a kernel nor a file",
                "gaussian:SIGMA, motion:LENGTH,ANGLE or a file with a picture of it",
            )
        elif len(form) == 1:
            sigma = (form[0], form[0])
            kernel = library().functional.gaussian_blur(sigma=sigma, dtype=torch.float64)
        else:
            kernel = motion(*form)
        # With a side of 1 the adjoint of deepinv 0.5's Blur is not A's.
        thin = [int(n == 1) for n in kernel.shape[:1:-1] for _ in range(2)]
        kernel = torch.nn.functional.pad(kernel, thin).to(like)
        physics = library().Blur(kernel, padding="replicate", use_fft=True, device=like.device)
        return one_by_one(physics.A), one_by_one(physics.A_adjoint)


def motion(length: float, angle: float) -> Tensor:
    """The kernel of a straight, even motion: a pixel's weight is the share of the path that lies in
    it.

    Args:
        length: Of the path, in pixels; its middle is the middle of the kernel.
        angle: Degrees, counter-clockwise from the horizontal.

    Returns:
        (1, 1, n, n) float64 with sum 1, n odd.
    """
    reach = math.ceil((length - 1) / 2)
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    first = torch.full((len(at), len(at)), -length / 2, dtype=torch.float64)
    last = -first
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for speed, place in ((across, at[None, :]), (up, -at[:, None])):
        if abs(speed) < 1e-12:  # The whole path is in the middle row or column.
            last = torch.where(place == 0, last, first)
            continue
        ends = torch.stack([(place - 0.5) / speed, (place + 0.5) / speed])
        first = torch.maximum(first, ends.amin(0))
        last = torch.minimum(last, ends.amax(0))
    inside = (last - first).clamp(min=0)
    return (inside / inside.sum())[None, None]


def _of_picture(picture: Tensor) -> Tensor:
    if not picture.sum() > 0:
        raise DataError("the picture of the kernel is all black", "its bright pixels are the blur")
    return picture / picture.sum()


def _numbers(kernel: str) -> tuple[float, ...] | None:
    """The numbers of gaussian:SIGMA or motion:LENGTH,ANGLE; None is a file's name."""
    name, _, rest = kernel.partition(":")
    if name not in ("gaussian", "motion"):
        return None
    try:
        numbers = tuple(float(part) for part in rest.split(","))
    except ValueError:
        numbers = ()
    fits = len(numbers) == (1 if name == "gaussian" else 2) and all(map(math.isfinite, numbers))
    if not fits or numbers[0] <= 0 or (name == "motion" and numbers[0] < 1):
        raise ValueError(
            f"needs gaussian:SIGMA with SIGMA > 0 or motion:LENGTH,ANGLE with LENGTH >= 1, got "
            f"'{kernel}'"
        )
    return numbers
