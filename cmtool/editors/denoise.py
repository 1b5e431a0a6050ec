"""Denoising: the picture without its noise."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.editors.base import Edit, Editor
from cmtool.errors import DataError
from cmtool.solvers.base import Noise

PATCHES = 250_000
"""Of a picture, roughly, that its noise is estimated from."""


@dataclass(frozen=True)
class Denoise(Editor):
    """Removes Gaussian noise that is the same everywhere.

    A consistency model answers with a likely clean picture, the end of the trajectory; a diffusion
    model asked once answers with the mean of all of them, which is nearer on average and blurred.

    Source:
        Song et al. 2023, arXiv 2303.01469, Appendix D.

    Args:
        sigma: The noise's standard deviation on the scale [-1, 1]; or in levels of 8 bits, 25/255;
            or auto, to estimate it.
    """

    group: ClassVar[Literal["free"]] = "free"
    sizes: ClassVar[Literal["tile"]] = "tile"
    steps: ClassVar[int] = 1

    sigma: str = "auto"

    def __post_init__(self) -> None:
        noise_level(self.sigma)

    def prepare(self, reference: Tensor, rng: Noise, **pictures: Tensor) -> Edit:
        given = noise_level(self.sigma)
        if given is None:
            sigma = estimate_noise(reference)
        else:
            sigma = reference.new_full((len(reference),), given)
        return Edit(shown=reference, start=reference, sigma=sigma)

    def degrade(self, image: Tensor, rng: Noise, **pictures: Tensor) -> Tensor:
        sigma = noise_level(self.sigma)
        if sigma is None:
            raise DataError("how much noise is to be added?", "--sigma 25/255")
        return image + sigma * rng.randn(image.shape[1:]).to(image)


def noise_level(text: str) -> float | None:
    """The noise level on the scale [-1, 1], which is twice as long as that of 25/255; None is to be
    estimated.

    Raises:
        ValueError: The text says none of that.

    Example:
        >>> noise_level("0.2"), round(noise_level("25/255"), 4), noise_level("auto")
        (0.2, 0.1961, None)
    """
    if text == "auto":
        return None
    number, slash, scale = text.partition("/")
    try:
        sigma = 2 * float(number) / float(scale) if slash else float(number)
    except (ValueError, ZeroDivisionError):
        sigma = -1.0
    if not 0 <= sigma < math.inf:
        raise ValueError(f"needs sigma like 0.2, 25/255 or auto, got sigma='{text}'")
    return sigma


def estimate_noise(x: Tensor) -> Tensor:
    """The standard deviation of white noise in pictures in [-1, 1], each by itself: (B, C, H, W) ->
    (B,).

    A picture's patches vary in few directions, noise in all: the smallest eigenvalues of their
    covariance are noise, as many as have their mean for a median. Patches of which more than a
    tenth is black or white are left out: there the noise is cut off. Fine texture counts as noise.

    Source:
        Chen, Zhu and Heng 2015, "An efficient statistical method for image noise level estimation",
        ICCV, Algorithm 1.

    Raises:
        DataError: There are too few pixels.
    """
    height, width = x.shape[2:]
    side = 5 if min(height, width) >= 64 else 3
    stride = math.ceil(math.sqrt(height * width / PATCHES))
    if min(height, width) < side or (height - 2) * (width - 2) < 2 * x.shape[1] * side**2:
        raise DataError(
            f"cannot estimate the noise of a picture of {width}x{height}, it is too small",
            "--sigma 25/255",
        )
    return torch.stack([_spread_of_noise(image, side, stride) for image in x])


def _spread_of_noise(image: Tensor, side: int, stride: int) -> Tensor:
    patches = torch.nn.functional.unfold(image[None], side, stride=stride)[0]
    whole = (patches.abs() >= 1).to(image).mean(0) <= 0.1
    if whole.sum() >= 2 * len(patches):
        patches = patches[:, whole]
    smallest = torch.linalg.eigvalsh(patches.cov()).clamp(min=0)
    while smallest.mean() > smallest.median():
        smallest = smallest[:-1]
    sigma: Tensor = smallest.mean().sqrt()
    return sigma
