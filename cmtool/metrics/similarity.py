"""How near one picture is to another: PSNR, SSIM and LPIPS, for pictures in [-1, 1]."""

import math
from typing import Any

import torch
from torch import Tensor

from cmtool.metrics.lpips import missing_lpips, open_lpips

WINDOW = 7
"""SSIM's window; a smaller picture has none."""


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
    """LPIPS v0.1 on AlexNet; (C, H, W) twice. None where its weights are not at hand.

    Source:
        Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric".
    """
    if missing_lpips() is not None:
        return None
    return float(open_lpips(torch.device("cpu")).distance(a[None].cpu(), b[None].cpu()))
