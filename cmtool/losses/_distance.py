"""Distances between two batches of images: (B, C, H, W) twice -> (B,)."""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmtool.errors import DeviceError

DistanceName = Literal[
    "pseudo-huber",
    "pseudo-huber-elementwise",
    "l1",
    "l2",
    "l2-32",
    "lpips-vgg",
    "lpips-vgg-avg",
    "lpips-alex",
]

LPIPS_SIZE = 224
"""Smaller images are enlarged to this before LPIPS, as in the consistency-model papers."""


def distance(name: DistanceName, a: Tensor, b: Tensor, huber_c: float | None = None) -> Tensor:
    """Compares images.

    l1 and l2 are means over pixels. pseudo-huber is sqrt(||a - b||^2 + c^2) - c on the norm over
    the whole image, with c = 0 the norm itself; pseudo-huber-elementwise is that of every pixel,
    then the mean, as some public code has it. l2-32 is l2 after bilinear resizing to 32 px. lpips-*
    are LPIPS v0.1 on VGG16 or AlexNet; lpips-vgg-avg has average in place of max pooling.

    Source:
        Song et al. 2023, arXiv 2303.01469, Section 5.1; released code for l2-32 and lpips-vgg-avg.
        Song & Dhariwal 2023, arXiv 2310.14189, Eq. 8 and Section 3.3 for pseudo-huber.
    """
    match name:
        case "pseudo-huber":
            # Its gradient is 0 where a = b; that of a square root would not be finite.
            norm = torch.linalg.vector_norm((a - b).flatten(1), dim=1)
            return _pseudo_huber(norm, a, huber_c)
        case "pseudo-huber-elementwise":
            return _pseudo_huber((a - b).flatten(1), a, huber_c).mean(1)
        case "l1":
            return (a - b).abs().flatten(1).mean(1)
        case "l2":
            return (a - b).square().flatten(1).mean(1)
        case "l2-32":
            a, b = (F.interpolate(v, size=32, mode="bilinear") for v in (a, b))
            return (a - b).square().flatten(1).mean(1)
        case _:
            return _perceptual(name, a, b)


def _pseudo_huber(size: Tensor, images: Tensor, c: float | None) -> Tensor:
    """sqrt(size^2 + c^2) - c, written so that nothing cancels for small sizes."""
    c = 0.00054 * math.sqrt(images[0].numel()) if c is None else c
    if c == 0:
        return size.abs()
    return size.square() / ((size.square() + c**2).sqrt() + c)


def _perceptual(name: str, a: Tensor, b: Tensor) -> Tensor:
    # Features are compared in float32 whatever the run's precision: their differences are small.
    with torch.autocast(a.device.type, enabled=False):
        distances: Tensor = lpips_network(name).to(a.device)(lpips_input(a), lpips_input(b))
    return distances.flatten()


def lpips_input(a: Tensor) -> Tensor:
    """Images (B, C, H, W) as LPIPS takes them: three channels, large enough, float32."""
    a = a.expand(-1, 3, -1, -1)
    if a.shape[-1] < 256:
        a = F.interpolate(a, size=LPIPS_SIZE, mode="bilinear")
    return a.float()


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
