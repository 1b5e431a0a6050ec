"""Stroke-guided editing: a picture from a rough one."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from cmtool.editors.base import Edit, Editor
from cmtool.solvers.base import Noise


@dataclass(frozen=True)
class Stroke(Editor):
    """Makes a rough picture, such as some strokes of paint, look like the model's images: it is
    brought to noise, and sampled from there.

    Source:
        Meng et al. 2021, arXiv 2108.01073 (SDEdit); for consistency models Song et al. 2023, arXiv
        2303.01469, Appendix D.

    Args:
        strength: How much of the picture is given up: 0 changes nothing, 1 leaves nothing of it.
    """

    group: ClassVar[Literal["free"]] = "free"
    sizes: ClassVar[Literal["resize"]] = "resize"
    steps: ClassVar[int] = 18

    strength: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"needs 0 <= strength <= 1, got strength={self.strength}")

    def prepare(self, reference: Tensor, rng: Noise, **pictures: Tensor) -> Edit:
        return Edit(shown=reference, start=reference, strength=self.strength)
