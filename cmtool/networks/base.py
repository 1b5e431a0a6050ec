"""What a network is: a frozen description that builds a plain module."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Network(ABC):
    """A description of an architecture; its fields are its recipe keys.

    The module it builds computes the raw output F of the preconditioning:

        forward(x, c_noise, label=None, **told) -> F

    with x (B, C, H, W) the scaled noisy image c_in * x_t, c_noise (B,) float32 the noise
    embedding's input, label (B,) int64 in 0 .. num_classes - 1, -1 (or None for the whole batch)
    meaning "no class", and F (B, C, H, W). `told` is what the description asks for: with
    `guidance_input`, guidance (B,), the weight whose guided answer is wanted (None is 1); with
    `augment_dim`, augment (B, augment_dim), what was done to the images (None is nothing).
    """

    @abstractmethod
    def build(self, image_size: int, channels: int, num_classes: int) -> nn.Module:
        """Builds the module with fresh weights.

        Args:
            image_size: Height and width of the (square) images in pixels.
            channels: Image channels, 1 or 3.
            num_classes: Number of classes; 0 builds an unconditional network that ignores `label`.

        Raises:
            ValueError: The description does not fit such images; the text says which field.
        """


@contextmanager
def shapes_only() -> Iterator[None]:
    """Networks that are built herein have weights without memory and without numbers."""
    with torch.device("meta"), _NoNumbers():
        yield


class _NoNumbers(TorchFunctionMode):
    """Answers what would load torch's compiler on tensors without memory, which takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("randn", "rand"):
            return torch.empty(*args)
        if name == "logspace":
            return torch.empty(args[2])
        if name in ("mul", "__rmul__") and isinstance(args[1], int | float):
            return args[0]
        return func(*args, **(kwargs or {}))
