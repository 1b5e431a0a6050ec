"""`pixel`: the values of an image themselves, in [0, 1]; sees brightness and blur, little else."""

import torch
from torch import Tensor

from cmtool.metrics.features.base import Extractor, Facts

VERSION = 1


def open_pixel(device: torch.device) -> Extractor:
    """The extractor."""
    facts: Facts = {"features": "pixel", "weights": "none", "resize": "none", "version": VERSION}
    return Extractor("pixel", None, 0, _pixels, facts, device, colour=False)


def _pixels(images: Tensor, probabilities: bool) -> tuple[Tensor, None]:
    return images.flatten(1).float() / 255, None
