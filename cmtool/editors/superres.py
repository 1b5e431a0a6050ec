"""Super-resolution: a larger picture whose block means are the small one's pixels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.editors.base import Edit, Editor, clamp
from cmtool.errors import DataError
from cmtool.solvers.base import Noise


@dataclass(frozen=True)
class Superres(Editor):
    """Enlarges a picture, each of whose pixels is the mean of a block of the result.

    Source:
        Song et al. 2023, arXiv 2303.01469, Appendix D.

    Args:
        factor: How many times higher and wider the result is.
    """

    group: ClassVar[Literal["exact"]] = "exact"
    sizes: ClassVar[Literal["tile"]] = "tile"
    steps: ClassVar[int] = 18

    factor: int = 4

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"needs factor >= 2, got factor={self.factor}")

    @property
    def enlarges(self) -> int:
        return self.factor

    def prepare(self, reference: Tensor, rng: Noise, **pictures: Tensor) -> Edit:
        def project(x: Tensor) -> Tensor:
            return x + self._spread(reference - self._means(x))

        def settle(x: Tensor) -> Tensor:
            b, c, h, w = reference.shape
            split = project(x).reshape(b, c, h, self.factor, w, self.factor).transpose(3, 4)
            blocks = split.reshape(b, c, h, w, -1)
            out = blocks.abs().amax(-1) > 1
            if out.any():
                blocks[out] = into_range(blocks[out], reference[out])
            return clamp(blocks.reshape(split.shape).transpose(3, 4).reshape(x.shape))

        return Edit(
            shown=self._spread(reference),
            measure=self._means,
            y=reference,
            project=project,
            settle=settle,
        )

    def degrade(self, image: Tensor, rng: Noise, **pictures: Tensor) -> Tensor:
        height, width = image.shape[2:]
        if height % self.factor or width % self.factor:
            raise DataError(
                f"factor '{self.factor}' does not divide the picture's size {width}x{height}",
                "crop the picture, or another --factor",
            )
        return self._means(image)

    def _means(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def _spread(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)


def into_range(blocks: Tensor, mean: Tensor) -> Tensor:
    """The nearest blocks in [-1, 1] with given means in [-1, 1]: (n, pixels) and (n,) -> (n,
    pixels).

    Those are the blocks shifted and clamped; the shift is found by bisection.
    """
    low = -1 - blocks.amax(1, keepdim=True)
    high = 1 - blocks.amin(1, keepdim=True)
    for _ in range(50):
        middle = (low + high) / 2
        less = clamp(blocks + middle).mean(1, keepdim=True) < mean[:, None]
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return clamp(blocks + high)
