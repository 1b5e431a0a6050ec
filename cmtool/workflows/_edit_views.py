"""Pictures that explain an edit: before and after side by side, and the way there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmtool import images
from cmtool.images import Pixels
from cmtool.pictures import at_most

LONGEST_SIDE = 384
"""Of a picture in a strip."""


def pixels_of(x: Tensor) -> Pixels:
    """(B, C, H, W) in [-1, 1] to (B, H, W, C) uint8."""
    pixels: Pixels = images.to_uint8(x).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def save_strip(path: Path, panels: Mapping[str, Tensor]) -> None:
    """Titled pictures side by side.

    Args:
        path: A PNG file.
        panels: Title -> (C, H, W) in [-1, 1]; they are brought to the first one's size.

    Raises:
        DataError: The file cannot be written.
    """
    first = next(iter(panels.values()))
    size = (first.shape[1], first.shape[2])
    shown = {}
    for title, x in panels.items():
        whole = x[None].float().cpu()
        if tuple(whole.shape[2:]) != size:
            whole = torch.nn.functional.interpolate(whole, size=size, mode="nearest")
        small = at_most(pixels_of(whole)[0], LONGEST_SIDE)
        shown[title] = images.with_channels(small, 3)[None]
    images.save_png(path, images.labelled_grid(shown, 1, tile=96))


def save_steps(path: Path, steps: Sequence[tuple[float, Tensor]]) -> None:
    """An animation of the estimates.

    Args:
        path: A GIF file.
        steps: Noise level and (B, C, H, W) estimate of each step.

    Raises:
        DataError: The file cannot be written.
    """
    columns = max(1, round(len(steps[0][1]) ** 0.5))
    sheets = []
    for sigma, x in steps:
        small = np.stack([at_most(pixels, LONGEST_SIDE) for pixels in pixels_of(x)])
        title = f"noise {sigma:.3g}"
        sheets.append(images.labelled_grid({title: small}, columns, tile=96))
    width = max(sheet.shape[1] for sheet in sheets)
    whole = [
        np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in sheets
    ]
    shown = max(100, 3000 // len(whole))
    images.save_gif(path, whole, [shown] * (len(whole) - 1) + [2000])
