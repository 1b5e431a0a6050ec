"""How near one picture is to another: PSNR, SSIM and LPIPS, for pictures in [-1, 1]."""

import math
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmtool.data.places import cache_dir
from cmtool.tensor_file import read_tensors

WINDOW = 7
"""SSIM's window; a smaller picture has none."""
LPIPS_LEAST = 224
"""Smaller pictures are enlarged to this for LPIPS."""
TRUNK = "alexnet-owt-7be5be79.pth"
"""torchvision's AlexNet, in torch's cache."""
WHOLE = "lpips_alex_fp32.safetensors"
"""AlexNet and the linear heads in one file, in our cache under weights/."""


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise ratio in dB, 10 log10(4 / mean squared error), as the range of the
    pixels is 2: (C, H, W) twice."""
    square = float((a.double() - b.double()).square().mean())
    return math.inf if square == 0 else 10 * math.log10(4 / square)


def ssim(a: Tensor, b: Tensor) -> float | None:
    """Structural similarity, scikit-image's with its own settings and data range 2; (C, H, W)
    twice. None for pictures that are smaller than its window or without scikit-image.

    Source:
        Wang et al. 2004, "Image quality assessment: from error visibility to structural
        similarity".
    """
    if min(a.shape[1:]) < WINDOW:
        return None
    try:
        from skimage import metrics
    except ImportError:
        return None
    pixels = (a.double().cpu().numpy(), b.double().cpu().numpy())
    compare: Any = metrics.structural_similarity
    return float(compare(*pixels, data_range=2, channel_axis=0, win_size=WINDOW))


def lpips(a: Tensor, b: Tensor) -> float | None:
    """LPIPS v0.1 on AlexNet; (C, H, W) twice. None where its weights are neither in our cache nor
    in torch's: a figure on the side is no reason for a download.

    Source:
        Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric".
    """
    network = _lpips_network(cache_dir() / "weights" / WHOLE, Path(torch.hub.get_dir()))
    if network is None:
        return None
    with torch.no_grad():
        return float(network(_large(a), _large(b)))


def _large(a: Tensor) -> Tensor:
    """(C, H, W) to (1, 3, H', W') with no side below LPIPS_LEAST."""
    height, width = a.shape[1:]
    scale = max(1.0, LPIPS_LEAST / min(height, width))
    size = (round(scale * height), round(scale * width))
    three = a.float().cpu().expand(3, -1, -1)[None]
    return torch.nn.functional.interpolate(three, size=size, mode="bilinear")


@lru_cache
def _lpips_network(whole: Path, hub: Path) -> Any:
    """LPIPS with the weights of one file, or with torch's AlexNet; None if there is neither."""
    found = whole.is_file()
    if not found and not (hub / "checkpoints" / TRUNK).is_file():
        return None
    from lpips import LPIPS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lpips calls torchvision in an old way.
        network = LPIPS(net="alex", pnet_rand=found, verbose=False)
    if found:
        own = network.state_dict()
        for key, value in read_tensors(whole).items():
            tail = key.removeprefix("features")
            for name in own:
                if name == key or (tail != key and name.endswith(tail) and "slice" in name):
                    own[name].copy_(value)
    return network.requires_grad_(False).eval()
