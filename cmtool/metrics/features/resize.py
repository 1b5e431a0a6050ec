"""Ways to bring images to the size of a feature network; each gives other numbers.

(B, 3, H, W) uint8 -> (B, 3, size, size) float32 in 0 .. 255, not rounded.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from cmtool.errors import DataError

Resize = Callable[[Tensor, int], Tensor]


def clean(images: Tensor, size: int) -> Tensor:
    """Clean-fid's own: Pillow's antialiased bicubic on each channel as floats, clipped.

    Pillow lets go of the interpreter's lock, so threads do as many images at a time as there are
    cores for torch.

    Source:
        Parmar, Zhang & Zhu 2022, arXiv 2104.11222.
    """
    from cleanfid.resize import make_resizer

    one = make_resizer("PIL", False, "bicubic", (size, size))
    arrays = images.permute(0, 2, 3, 1).cpu().numpy()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        resized = [torch.from_numpy(array) for array in pool.map(one, arrays)]
    return torch.stack(resized).permute(0, 3, 1, 2).to(images.device)


def bilinear(images: Tensor, size: int) -> Tensor:
    """Torch's bilinear without antialiasing, as pytorch-fid and clean-fid's `legacy_pytorch`."""
    x = images.contiguous().float()
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False).clamp(0, 255)


def bicubic(images: Tensor, size: int) -> Tensor:
    """Torch's antialiased bicubic, clipped: fast, and Pillow's but for rounding."""
    x = images.contiguous().float()
    return F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 255)


def none(images: Tensor, size: int) -> Tensor:
    """Images that have the size.

    Raises:
        DataError: They have another.
    """
    if images.shape[2:] != (size, size):
        raise DataError(
            f"images are {images.shape[3]}x{images.shape[2]}, the network takes {size}x{size}",
            'resize = "bicubic" in its sidecar',
        )
    return images.float()


RESIZES: dict[str, Resize] = {
    "bicubic": bicubic,
    "bilinear": bilinear,
    "clean": clean,
    "none": none,
}
