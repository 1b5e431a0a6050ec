"""How well `cmtool edit denoise` finds the noise of photographs: a table in Markdown.

    python benchmarks/noise_estimates.py [PICTURE ...]

PICTURE is one of scikit-image's (astronaut, coffee, ...) or cifar10, the mean over the first 100
test images. Noise of 0, 5, 10, 25 and 50 levels of an 8-bit picture is added; in brackets what is
found once the noisy picture was rounded and cut off to 8 bits. Needs scikit-image (extra `dev`).
"""

import sys

import numpy as np
import skimage.data
import torch
from torch import Tensor

from cmtool.data.catalog import open_data
from cmtool.editors.denoise import estimate_noise

PICTURES = ("astronaut", "coffee", "chelsea", "rocket", "moon", "camera", "grass", "cifar10")
LEVELS = (0, 5, 10, 25, 50)


def read(name: str) -> Tensor:
    """Pictures (B, C, H, W) in [-1, 1]."""
    if name == "cifar10":
        pixels = torch.from_numpy(open_data(name, split="test").images(np.arange(100)))
    else:
        photo = getattr(skimage.data, name)()
        photo = photo[..., None] if photo.ndim == 2 else photo[..., :3]
        pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None]
    return pixels.double() / 127.5 - 1


def found(x: Tensor, level: int) -> str:
    """The estimate for noise of a level, and in brackets after saving."""
    generator = torch.Generator().manual_seed(1)
    noisy = x + level / 127.5 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    saved = (noisy.clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1
    exact, rounded = (float(estimate_noise(y).mean()) * 127.5 for y in (noisy, saved))
    return f"{exact:.1f} ({rounded:.1f})"


def main(names: list[str]) -> None:
    """Prints a row for each picture."""
    print("| picture | " + " | ".join(map(str, LEVELS)) + " |")
    print("|---" * (len(LEVELS) + 1) + "|")
    for name in names:
        x = read(name)
        print(f"| {name} | " + " | ".join(found(x, level) for level in LEVELS) + " |")


if __name__ == "__main__":
    main(sys.argv[1:] or list(PICTURES))
