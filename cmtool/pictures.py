"""One picture of a user's with what has to come back beside its pixels: transparency and ICC
profile.

`cmtool.images` serves data sets, where a picture is its pixels; here nothing is laid over white and
nothing is cropped.
"""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cmtool import images
from cmtool.errors import DataError
from cmtool.images import Pixels

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_ICC_SPACES = {b"GRAY": 1, b"RGB ": 3}
_BITS_PER_SAMPLE = 258


@dataclass(frozen=True)
class Picture:
    """A picture as bytes.

    Args:
        pixels: (H, W, 1 or 3).
        alpha: (H, W) transparency, 255 is opaque; None is opaque everywhere.
        icc: Colour profile, of as many channels as `pixels` has.
        notes: What of the file is not kept.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def grey(self) -> bool:
        """Whether it has one channel."""
        return bool(self.pixels.shape[2] == 1)

    def tensor(self, channels: int) -> Tensor:
        """(1, channels, H, W) float32 in [-1, 1]; grey is repeated, colours become luma."""
        array = np.ascontiguousarray(images.with_channels(self.pixels, channels))
        return images.from_uint8(torch.from_numpy(array)).permute(2, 0, 1)[None]

    def with_pixels(self, pixels: Pixels) -> "Picture":
        """Other pixels (H', W', 1 or 3) under the same transparency, resized with them, or none
        where they show another section; a profile of other channels is left out."""
        alpha = self.alpha
        if alpha is not None and alpha.shape != pixels.shape[:2]:
            (height, width), (rows, columns) = self.size, pixels.shape[:2]
            whole = abs(rows * width - columns * height) <= max(height, width)  # Sides are rounded.
            resized = Image.fromarray(alpha).resize((columns, rows), Image.Resampling.BICUBIC)
            alpha = np.asarray(resized) if whole else None
        icc = self.icc if pixels.shape[2] == self.pixels.shape[2] else None
        return replace(self, pixels=pixels, alpha=alpha, icc=icc)

    def to_pil(self) -> Image.Image:
        """As Pillow has it."""
        parts = [self.pixels] if self.alpha is None else [self.pixels, self.alpha[:, :, None]]
        array = np.concatenate(parts, axis=2)
        image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
        if self.icc is not None:
            image.info["icc_profile"] = self.icc
        return image

    def save(self, path: Path) -> None:
        """Writes a PNG, whole or not at all; makes the folder.

        Raises:
            DataError: It cannot be written.
        """
        content = BytesIO()
        self.to_pil().save(content, "PNG", icc_profile=self.icc)
        images.save_whole(path, content.getvalue())


def read_picture(path: Path) -> Picture:
    """Reads a file of any mode; the EXIF turn is applied, of an animation the first frame is taken.

    Raises:
        DataError: It is missing, empty, broken, too large or no image.
    """
    with images.open_image(path, str(path)) as image:
        try:
            return from_pil(image)
        # A damaged file makes each of Pillow's readers trip over something else.
        except Exception as problem:
            message = f"broken image '{path}': {images.reason(problem)}"
            raise DataError(message, images.AGAIN) from problem


def from_pil(image: Image.Image) -> Picture:
    """A Pillow image as a picture.

    Raises:
        ValueError: Its pixels are floating-point numbers, or integers beyond 16 bits.
    """
    notes = _lost(image)  # Before loading: Pillow then forgets how deep the pixels were.
    image.load()
    profile = image.info.get("icc_profile")
    turned = ImageOps.exif_transpose(image)
    pixels = images.pixels_of(turned, opaque=False)
    alpha = None
    if turned.has_transparency_data:
        alpha = np.array(turned.convert("RGBA"))[:, :, 3]
        alpha = None if alpha.min() == 255 else alpha
    if profile and _ICC_SPACES.get(profile[16:20]) != pixels.shape[2]:
        notes.append("its ICC profile does not fit the result and is left out")
        profile = None
    return Picture(pixels, alpha, profile or None, tuple(notes))


def read_mask(path: Path) -> Pixels:
    """Reads a mask: (H, W) uint8, white is 255. Transparent pixels count as black.

    Raises:
        DataError: See `read_picture`.
    """
    picture = read_picture(path)
    grey = images.with_channels(picture.pixels, 1)[:, :, 0]
    if picture.alpha is None:
        return grey
    over_black = (grey.astype(np.int64) * picture.alpha + 127) // 255
    return over_black.astype(np.uint8)


def at_most(pixels: Pixels, side: int) -> Pixels:
    """A picture scaled down until no side is longer: (H, W, 1 or 3) -> (H', W', 1 or 3)."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = pixels.shape[2] == 1
    image = Image.fromarray(pixels[:, :, 0] if grey else pixels)
    array = np.array(image.resize(size, Image.Resampling.LANCZOS))
    return array[:, :, None] if grey else array


def _lost(image: Image.Image) -> list[str]:
    """What of a file is not kept, in words."""
    lost = []
    if getattr(image, "n_frames", 1) > 1:
        lost.append(f"an animation of {getattr(image, 'n_frames', 1)} frames; the first is used")
    if _is_deep(image):
        lost.append("16 bits a channel became 8")
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa") and (
        not _is_deep(image)
    ):
        lost.append(f"{image.mode} became RGB")
    return lost


def _is_deep(image: Image.Image) -> bool:
    if image.mode.startswith("I"):
        return True
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    # Pillow reads 16-bit colour by its high bytes and says so nowhere but in its decoder's name.
    return image.format == "PNG" and ";16" in str(getattr(image, "tile", ""))


def is_pil(image: object) -> bool:
    """Whether Pillow made it."""
    return isinstance(image, Image.Image)
