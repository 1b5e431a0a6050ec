"""The few tensor types that every layer shares, and the only place for shape helpers."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t: (B, *), t: (B,)) -> x0_hat: (B, *). Labels, guidance and clamping are already closed
over."""


class Batch(NamedTuple):
    """Training images, (B, C, H, W) in [-1, 1], their classes, (B,) int64 with -1 for "no class",
    what was done to them, (B, 9), see `cmtool.augment`, and drawn guidance weights, (B,)."""

    x: Tensor
    label: Tensor | None = None
    augment: Tensor | None = None
    guidance: Tensor | None = None

    def rows(self, chosen: Tensor) -> "Batch":
        """A part of the batch: bool (B,)."""
        rest = (None if part is None else part[chosen] for part in self[1:])
        return Batch(self.x[chosen], *rest)


def expand(a: Tensor, like: Tensor) -> Tensor:
    """Gives `a` of shape (B,) trailing axes of size 1 so that it broadcasts over `like` of shape
    (B, *)."""
    return a.reshape(a.shape + (1,) * (like.ndim - a.ndim))


def rms(x: Tensor) -> Tensor:
    """Root mean square over all axes but the first: (B, *) -> (B,)."""
    return x.flatten(1).square().mean(1).sqrt()
