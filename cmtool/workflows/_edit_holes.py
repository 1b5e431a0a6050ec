"""Which pixels of a picture are to be repainted: a mask, a box, a margin, or its transparency."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cmtool.errors import DataError, RecipeError, Say
from cmtool.images import Pixels
from cmtool.pictures import Picture, read_mask


@dataclass(frozen=True)
class Hole:
    """What a user says of it; the parts add up, and nothing said means the transparency.

    Args:
        mask: A picture, white where it is to be repainted.
        box: x0,y0,x1,y1 in pixels, x1 and y1 excluded.
        pad: left,top,right,bottom, pixels to add around the picture.
    """

    mask: Path | None = None
    box: str | None = None
    pad: str | None = None

    def __bool__(self) -> bool:
        return any(part is not None for part in (self.mask, self.box, self.pad))


def cut(picture: Picture, hole: Hole, name: str, say: Say) -> tuple[Picture, Pixels]:
    """The picture, larger where a margin is added, and its hole: (H, W) uint8, 255 or 0.

    Raises:
        CmtoolError: What is said does not fit the picture.
    """
    height, width = picture.size
    found = np.zeros((height, width), dtype=np.uint8)
    if hole.mask is not None:
        mask = read_mask(hole.mask)
        if mask.shape != found.shape:
            raise DataError(
                f"mask '{hole.mask}' is {mask.shape[1]}x{mask.shape[0]}, and '{name}' is "
                f"{width}x{height}",
                "a mask of the picture's size",
            )
        found[mask >= 128] = 255
        grey = int(((mask > 5) & (mask < 250)).sum())
        if grey:
            say(f"{hole.mask}: {grey:,} grey pixels; those of 128 and more count as white")
    if hole.box is not None:
        x0, y0, x1, y1 = _four(hole.box, "--box", "x0,y0,x1,y1")
        if x0 >= x1 or y0 >= y1:
            raise RecipeError(
                f"--box {hole.box} is empty",
                "--box x0,y0,x1,y1: the upper left corner, then the lower right one",
            )
        if x1 > width or y1 > height:
            raise RecipeError(
                f"--box {hole.box} does not lie in '{name}', which is {width}x{height}",
                f"--box x0,y0,x1,y1: two corners; 0,0,{width},{height} is all of it",
            )
        found[y0:y1, x0:x1] = 255
    if hole.pad is not None:
        left, top, right, bottom = _four(hole.pad, "--pad", "left,top,right,bottom")
        around = ((top, bottom), (left, right))
        found = np.pad(found, around, constant_values=255)
        picture = replace(
            picture,
            pixels=np.pad(picture.pixels, (*around, (0, 0)), mode="edge"),
            alpha=None
            if picture.alpha is None
            else np.pad(picture.alpha, around, constant_values=255),
        )
    if not hole:
        if picture.alpha is None:
            raise RecipeError(
                f"nothing says what of '{name}' is to be repainted",
                "--mask M, --box x0,y0,x1,y1, --pad left,top,right,bottom, or transparent pixels",
            )
        found[picture.alpha < 128] = 255
        picture = replace(picture, alpha=None)
        say(f"{name}: its transparent pixels are repainted")
    return picture, found


def _four(text: str, option: str, form: str) -> tuple[int, int, int, int]:
    try:
        a, b, c, d = (int(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(f"{option} '{text}' is not {form}", f"{option} 8,8,24,24") from None
    if min(a, b, c, d) < 0 or max(a, b, c, d) > 100_000:
        raise RecipeError(
            f"{option} {text}: numbers go from 0 to 100,000", f"{option} {form} in pixels"
        )
    return a, b, c, d
