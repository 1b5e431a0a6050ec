"""Distances between two batches of images: (B, C, H, W) twice -> (B,)."""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmtool.errors import DeviceError

DistanceName = Literal[
    "pseudo-huber", "l1", "l2", "l2-32", "lpips-vgg", "lpips-vgg-avg", "lpips-alex"
]

LPIPS_SIZE = 224
"""Smaller images are enlarged to this before LPIPS, as in the consistency-model papers."""


def distance(name: DistanceName, a: Tensor, b: Tensor, huber_c: float | None = None) -> Tensor:
    """Compares images.

    l1 and l2 are means over pixels. pseudo-huber is sqrt(||a - b||^2 + c^2) - c on the norm over
    the whole image. l2-32 is l2 after bilinear resizing to 32 px. lpips-* are LPIPS v0.1 on VGG16
    or AlexNet; lpips-vgg-avg has average in place of max pooling.

    Source:
        Song et al. 2023, arXiv 2303.01469, Section 5.1; released code for l2-32 and lpips-vgg-avg.
        Song & Dhariwal 2023, arXiv 2310.14189, Eq. 8 and Section 3.3 for pseudo-huber.
    """
    match name:
        case "pseudo-huber":
            c = 0.00054 * math.sqrt(a[0].numel()) if huber_c is None else huber_c
            square = (a - b).flatten(1).square().sum(1)
            # Equal to sqrt(square + c^2) - c, which would cancel for small differences.
            return square / ((square + c**2).sqrt() + c)
        case "l1":
            return (a - b).abs().flatten(1).mean(1)
        case "l2":
            return (a - b).square().flatten(1).mean(1)
        case "l2-32":
            a, b = (F.interpolate(v, size=32, mode="bilinear") for v in (a, b))
            return (a - b).square().flatten(1).mean(1)
        case _:
            return _perceptual(name, a, b)


def _perceptual(name: str, a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] == 1:
        a, b = a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)
    if a.shape[-1] < 256:
        a, b = (F.interpolate(v, size=LPIPS_SIZE, mode="bilinear") for v in (a, b))
    # Features are compared in float32 whatever the run's precision: their differences are small.
    with torch.autocast(a.device.type, enabled=False):
        distances: Tensor = lpips_network(name).to(a.device)(a.float(), b.float())
    return distances.flatten()


@lru_cache
def lpips_network(name: str) -> nn.Module:
    """The frozen LPIPS network, float32 on the CPU at first.

    Raises:
        DeviceError: The trunk's weights are neither in torch's cache nor can be downloaded.
    """
    import lpips

    trunk = "alex" if name == "lpips-alex" else "vgg"
    try:
        network: nn.Module = lpips.LPIPS(net=trunk, verbose=False)
    except OSError as cause:
        place = f"{torch.hub.get_dir()}/checkpoints"
        file = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth"}[trunk]
        raise DeviceError(
            f"distance '{name}' needs torchvision's {file}, which cannot be downloaded: {cause}",
            f"put it into {place}, or --set loss.distance=pseudo-huber, which needs no weights",
        ) from None
    if name == "lpips-vgg-avg":
        use_average_pooling(network)
    return network.requires_grad_(False).eval()


def use_average_pooling(module: nn.Module) -> None:
    """Replaces every max pooling inside a network by average pooling of the same size, in place."""
    for key, child in list(module.named_children()):
        if isinstance(child, nn.MaxPool2d):
            setattr(module, key, nn.AvgPool2d(child.kernel_size, child.stride))
        else:
            use_average_pooling(child)
