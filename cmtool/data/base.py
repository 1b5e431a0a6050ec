"""What a data set is: uint8 images by index, their classes, and the facts a model must remember."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]
Say = Callable[[str], None]
Split = Literal["train", "test"]

MEMORY_SHARE = 0.25
"""A data set is held in memory if it takes at most this share of each process's part of the RAM."""


def quiet(message: str) -> None:
    """A `say` for callers who want no news."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size, in a fixed order.

    Args:
        name: What the user called it.
        image_shape: (C, H, W), C = 1 or 3, H = W.
        size: Number of images.
        read: Indices (n,) -> images (n, C, H, W) uint8; an index may come twice.
        labels: (size,) in 0 .. num_classes - 1, or None.
        classes: A name for every class; empty without labels.
        in_memory: `read` only copies; otherwise it decodes files.
        flip_ok: A mirrored image is as good as the image: false for digits.
        facts: Source, split, crop, filter, counts: stored with every model trained on it.
    """

    name: str
    image_shape: tuple[int, int, int]
    size: int
    read: Callable[[Indices], Pixels] = field(repr=False)
    labels: Labels | None = field(default=None, repr=False)
    classes: tuple[str, ...] = field(default=(), repr=False)
    in_memory: bool = True
    flip_ok: bool = True
    facts: dict[str, str | int] = field(default_factory=dict)

    @classmethod
    def from_array(
        cls,
        name: str,
        pixels: Pixels,
        labels: Labels | None,
        classes: tuple[str, ...],
        *,
        flip_ok: bool,
        facts: dict[str, str | int],
    ) -> "ImageSet":
        """A set held in memory, `pixels` (N, C, H, W)."""
        size, channels, height, width = pixels.shape
        shape = (channels, height, width)
        return cls(name, shape, size, pixels.__getitem__, labels, classes, True, flip_ok, facts)

    def __len__(self) -> int:
        return self.size

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without labels."""
        return len(self.classes)

    def images(self, indices: Indices) -> Pixels:
        """The images of those indices as they are, (n,) -> (n, C, H, W) uint8.

        Raises:
            DataError: A file of a set that is decoded on demand is broken; the text names it.
        """
        return self.read(indices)


def fits_in_memory(size: int, shape: tuple[int, ...]) -> bool:
    """Whether each process of this machine may hold `size` uint8 images of that shape in memory."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return size * math.prod(shape) <= memory_bytes() * MEMORY_SHARE / processes


def memory_bytes() -> int:
    """The machine's RAM; 8 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30
