"""What a feature network is to the metrics: bytes in, vectors out, and all that they depend on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Vectors = NDArray[np.float32]
Facts: TypeAlias = dict[str, str | int | float]
Network = Callable[[Tensor, bool], tuple[Tensor, Tensor | None]]
_CPU = torch.device("cpu")


class Extracted(NamedTuple):
    """What a network says of a batch.

    Args:
        features: (B, d) float32.
        probabilities: (B, K) float32 that add up to 1, where they were asked for: no softmax after
            this.
    """

    features: Vectors
    probabilities: Vectors | None


@dataclass(frozen=True, eq=False)
class Extractor:
    """A feature network, with its weights on its device.

    Args:
        name: "inception", "lite0", "pixel", or what a file of the user's calls itself.
        dim: Width d of the features; None is as many as an image has values.
        classes: How many probabilities it gives; 0 is none, and no inception score.
        network: Colour images (B, 3, H, W) uint8 on the device, whether probabilities are wanted ->
            (B, d) and (B, K) or None. With `colour` false it takes grey ones too.
        facts: All that the features of an image depend on, as plain data for records and keys:
            sha256 of the weights, resizing, input convention, version.
        device: Where it runs.
        official: Inception with the checked file: only this may be called FID, KID and IS.
        random: The weights mean nothing; a test's.
        colour: Grey images are repeated to RGB.
    """

    name: str
    dim: int | None
    classes: int
    network: Network = field(repr=False)
    facts: Facts
    device: torch.device = _CPU
    official: bool = False
    random: bool = False
    colour: bool = True

    def __call__(
        self, images: NDArray[np.uint8] | Tensor, *, probabilities: bool = False
    ) -> Extracted:
        """Features of (B, C, H, W) uint8 images, C = 1 or 3, without autocast or TF32.

        Args:
            images: As `ImageSet.images` gives them.
            probabilities: Also those of the classes, at hardly any cost.

        Raises:
            ValueError: These are no such images, or the network gives no probabilities.
        """
        x = torch.as_tensor(images)
        if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"needs (B, 1 or 3, H, W) uint8, got {tuple(x.shape)} {x.dtype}")
        if probabilities and not self.classes:
            raise ValueError(f"'{self.name}' gives no probabilities")
        if self.colour:
            x = x.expand(-1, 3, -1, -1)
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False), exact:
            features, classes = self.network(x.to(self.device), probabilities)
        return Extracted(
            features.float().cpu().numpy(), None if classes is None else classes.cpu().numpy()
        )

    def title(self, metric: str) -> str:
        """What a figure from these features is called, so that nobody takes it for another.

        Args:
            metric: "FD", "KID", "IS", "precision", ...

        Example:
            >>> Extractor("lite0", 1280, 0, lambda x, p: (x, None), {}).title("FD")
            'FD-lite0'
        """
        if self.official:
            return "FID" if metric == "FD" else metric
        return f"{metric}-{self.name}" + (" random" if self.random else "")
