"""Image files and pictures: the one place that knows Pillow, uint8 and the pixel range.

Inside the program an image is float32 in [-1, 1]; here it meets files, as uint8 arrays of shape (H,
W, C) with C = 1 or 3:

    from_uint8(u) = u / 127.5 - 1          to_uint8(x) = clip(floor(127.5 x + 128), 0, 255)

Drawing random numbers or reading whole data sets is not done here (see `cmtool.data`).
"""

import struct
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from cmtool.errors import DataError, did_you_mean
from cmtool.files import whole

Pixels = NDArray[np.uint8]

EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".bmp", ".dib"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""File names that are taken for images, in lower case."""

# Only plain raster formats: Pillow's EPS reader, for one, would start an interpreter on the file's
# contents.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM")
_MAX_PIXELS = 89_478_485
AGAIN = "copy or save it again"
"""What to do about a broken file."""
_GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_EXIF_ORIENTATION = 0x0112

# Pillow only warns about an image of 0.1 to 0.2 gigapixels; a line on a user's screen helps nobody,
# an error does.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def from_uint8(images: Tensor) -> Tensor:
    """Bytes to the network's range: (*) uint8 -> (*) float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """The network's range to bytes: (*) float -> (*) uint8, clip(floor(127.5 x + 128), 0, 255).

    That is 127.5 (x + 1) rounded to the nearest integer, halves upwards, so that every byte u comes
    back from `to_uint8(from_uint8(u))`.
    """
    return (x.to(torch.float32) * 127.5 + 128).floor().clamp(0, 255).to(torch.uint8)


def peek(source: Path | bytes, name: str) -> tuple[int, int, bool]:
    """Width, height (before any EXIF turn) and whether the image is grey, from the file's header.

    Raises:
        DataError: This is no image that we read; the text gives `name`.
    """
    with open_image(source, name) as image:
        return image.width, image.height, is_grey(image)


def read(source: Path | bytes, name: str) -> Pixels:
    """Reads an image of any mode as uint8.

    Transparent pixels are laid over white. 16-bit grey becomes round(v / 257); Pillow itself reads
    16-bit colour by its high bytes. CMYK and other colour spaces are converted to RGB without their
    profiles. The EXIF turn is applied. Of an animation the first frame is taken.

    Args:
        source: The file, or its contents.
        name: What to call it in an error.

    Returns:
        (H, W, 1) if the file is grey (a palette of greys counts), else (H, W, 3).

    Raises:
        DataError: The file is missing, empty, broken, too large or no image; the text gives `name`.
    """
    with open_image(source, name) as image:
        try:
            image.load()
            return pixels_of(ImageOps.exif_transpose(image))
        # A damaged file makes each of Pillow's readers trip over something else: OSError,
        # SyntaxError, struct.error ...
        except Exception as problem:
            raise DataError(f"broken image '{name}': {reason(problem)}", AGAIN) from problem


def open_image(source: Path | bytes, name: str) -> Image.Image:
    """Pillow's image of a file that is small enough, its pixels not yet read.

    Raises:
        DataError: See `read`.
    """
    try:
        if not (source if isinstance(source, bytes) else source.stat().st_size):
            raise DataError(f"empty image file '{name}'", AGAIN)
        image = Image.open(
            BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS
        )
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"no image file '{name}'", "give the path of a picture") from None
    except UnidentifiedImageError:
        raise DataError(
            f"'{name}' is not an image that can be read",
            "give a PNG, JPEG, GIF, WebP, BMP, TIFF or PNM file",
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"image '{name}' has more than {_MAX_PIXELS:,} pixels", "make it smaller"
        ) from None
    except Exception as problem:
        raise DataError(f"cannot read image '{name}': {reason(problem)}") from problem
    if image.width * image.height > _MAX_PIXELS:
        raise DataError(f"image '{name}' has more than {_MAX_PIXELS:,} pixels", "make it smaller")
    return image


def reason(problem: Exception) -> str:
    """What went wrong, in lower case."""
    text = (
        (problem.strerror if isinstance(problem, OSError) else None)
        or str(problem)
        or type(problem).__name__
    )
    return text[:1].lower() + text[1:]


def is_grey(image: Image.Image) -> bool:
    """Whether its mode or its palette has no colours."""
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB") or [0, 0, 1], dtype=np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in _GREY_MODES


def pixels_of(image: Image.Image, *, opaque: bool = True) -> Pixels:
    """Any Pillow image, already loaded -> (H, W, 1 or 3) uint8, `opaque` laid over white."""
    grey = is_grey(image)
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("its 32-bit pixels go beyond 0 .. 65535")
        return ((deep + 128) // 257).astype(np.uint8)[:, :, None]
    if image.mode == "F":
        raise ValueError("it has floating-point pixels, save it with 8 or 16 bits")
    if image.has_transparency_data and opaque:
        rgba = np.asarray(image.convert("RGBA")).astype(np.int64)
        colour, alpha = rgba[:, :, :3], rgba[:, :, 3:]
        over_white = ((colour * alpha + 255 * (255 - alpha)) * 2 + 255) // 510
        return np.ascontiguousarray(over_white[:, :, : 1 if grey else 3], dtype=np.uint8)
    if grey and image.mode == "P":
        return np.asarray(image.convert("RGB"))[:, :, :1].copy()
    array = np.array(image.convert("L" if grey else "RGB"))
    return array[:, :, None] if grey else array


def with_channels(image: Pixels, channels: int) -> Pixels:
    """Grey repeated, or Rec. 601 luma of a colour image: (H, W, 1 or 3) -> (H, W, channels)."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return np.asarray(Image.fromarray(image).convert("L"))[:, :, None]


def center(image: Pixels, size: int) -> Pixels:
    """The largest centred square, then LANCZOS to the size: (H, W, C) -> (size, size, C).

    Source:
        NVIDIA EDM, `dataset_tool.py --transform=center-crop`: the EDM ImageNet-64 models.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resize(
        image[top : top + side, left : left + side], size, size, Image.Resampling.LANCZOS
    )


def dhariwal(image: Pixels, size: int) -> Pixels:
    """BOX halvings, BICUBIC to the short side, centre crop: (H, W, C) -> (size, size, C).

    It halves while the short side is at least twice the size, then makes that side the size.

    Source:
        Dhariwal & Nichol 2021, arXiv 2105.05233 (OpenAI's `center_crop_arr`): the consistency
        models' ImageNet-64.
    """
    while min(image.shape[:2]) >= 2 * size:
        image = _resize(image, image.shape[0] // 2, image.shape[1] // 2, Image.Resampling.BOX)
    return _center_crop(_short_side(image, size, Image.Resampling.BICUBIC), size)


def lsun(image: Pixels, size: int) -> Pixels:
    """BOX until the short side is `size`, centre crop: (H, W, C) -> (size, size, C).

    Source:
        OpenAI's `datasets/lsun_bedroom.py`: the consistency models' LSUN 256 x 256.
    """
    return _center_crop(_short_side(image, size, Image.Resampling.BOX), size)


def none(image: Pixels, size: int) -> Pixels:
    """The image as it is, which must be (size, size, C).

    Raises:
        ValueError: It has another size.
    """
    if image.shape[:2] != (size, size):
        raise ValueError(f"is {image.shape[1]}x{image.shape[0]}, not {size}x{size}")
    return image


CROPS: dict[str, Callable[[Pixels, int], Pixels]] = {
    "center": center,
    "dhariwal": dhariwal,
    "lsun": lsun,
    "none": none,
}
FILTERS = {"center": "lanczos", "dhariwal": "box+bicubic", "lsun": "box", "none": "none"}


def crop_named(name: str) -> Callable[[Pixels, int], Pixels]:
    """The crop of that name.

    Raises:
        DataError: There is none.
    """
    if name not in CROPS:
        raise DataError(
            f"unknown crop '{name}'{did_you_mean(name, CROPS)}", f"one of {', '.join(CROPS)}"
        )
    return CROPS[name]


def _short_side(image: Pixels, size: int, resampling: Image.Resampling) -> Pixels:
    height, width = image.shape[:2]
    scale = size / min(height, width)
    if height * scale * width * scale > _MAX_PIXELS:
        raise ValueError(f"is {width}x{height}, too thin for a crop of {size}x{size}")
    return _resize(image, round(height * scale), round(width * scale), resampling)


def _center_crop(image: Pixels, size: int) -> Pixels:
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def _resize(image: Pixels, height: int, width: int, resampling: Image.Resampling) -> Pixels:
    if image.shape[:2] == (height, width):
        return image
    grey = image.shape[2] == 1
    picture = Image.fromarray(image[:, :, 0] if grey else image)
    array = np.array(picture.resize((width, height), resampling))
    return array[:, :, None] if grey else array


def pngs(images: Pixels) -> list[bytes]:
    """(N, H, W, 1 or 3) uint8 as PNG files, each row stored as its difference from the one above.

    Pillow takes ten times as long, which is seen beside a small network.

    Source:
        RFC 2083: chunks (3), filter type 2 "up" (6.4).
    """
    n, height, width, channels = images.shape
    rows = np.full((n, height, 1 + width * channels), 2, dtype=np.uint8)
    rows[:, :, 1:] = images.reshape(n, height, -1)
    rows[:, 1:, 1:] -= rows[:, :-1, 1:].copy()
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR" + header)
    end = _chunk(b"IEND")
    return [start + _chunk(b"IDAT" + zlib.compress(image)) + end for image in rows]


def _chunk(part: bytes) -> bytes:
    return struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))


def save_png(path: Path, image: Pixels) -> None:
    """Writes (H, W, 1 or 3) uint8 as PNG, whole or not at all; makes the folder.

    Raises:
        DataError: The file cannot be written.
    """
    save_whole(path, pngs(image[None])[0])


def save_gif(path: Path, frames: Sequence[Pixels], milliseconds: Sequence[int]) -> None:
    """Writes frames (H, W, 1 or 3) uint8, each shown so long, as an endless GIF, whole or not at
    all. Grey comes back as it is; colours are 256 for each frame.

    Raises:
        DataError: The file cannot be written.
    """
    first, *rest = [Image.fromarray(f[:, :, 0] if f.shape[2] == 1 else f) for f in frames]
    content, times = BytesIO(), list(milliseconds)
    first.save(content, "GIF", save_all=True, append_images=rest, duration=times, loop=0)
    save_whole(path, content.getvalue())


def save_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; makes the folder.

    Raises:
        DataError: It cannot be written.
    """
    try:
        with whole(path) as draft:
            draft.write_bytes(content)
    except OSError as problem:
        raise DataError(f"cannot write '{path}': {reason(problem)}") from problem


def grid(images: Pixels, columns: int, *, tile: int = 32, gap: int = 2) -> Pixels:
    """Lays images out row by row on white.

    Args:
        images: (N, H, W, C), N >= 1.
        columns: Images in a row.
        tile: Small images are repeated pixel by pixel, by a whole factor, until a side is at least
            this many pixels.
        gap: White pixels between the tiles.

    Returns:
        (rows (h + gap) - gap, columns (w + gap) - gap, C) with (h, w) the enlarged tile.
    """
    factor = max(1, -(-tile // min(images.shape[1:3])))
    tiles = images.repeat(factor, axis=1).repeat(factor, axis=2)
    n, height, width, channels = tiles.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap), columns * (width + gap), channels), 255, dtype=np.uint8)
    for i in range(n):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = tiles[i]
    return sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]


def labelled_grid(
    panels: Mapping[str, Pixels],
    columns: int,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    tile: int = 32,
    gap: int = 2,
) -> Pixels:
    """Grids side by side, a title over each, for comparing the same images made in several ways.

    With `columns=1` every panel is one column and every row one image.

    Args:
        panels: Title -> images (N, H, W, C), all of one H and W.
        columns: Images in a row of each panel.
        row_labels: Written at the left of the rows, from the top.
        column_labels: Written over the columns of each panel, which become as wide as they need.
        tile: As in `grid`.
        gap: As in `grid`.

    Returns:
        (H', W', 3) uint8.
    """
    font = ImageFont.load_default(14)
    margin = 10
    tile = max([tile, *(int(font.getlength(label)) + 2 for label in column_labels)])
    grids = {title: grid(images, columns, tile=tile, gap=gap) for title, images in panels.items()}
    first = next(iter(panels.values()))
    factor = max(1, -(-tile // min(first.shape[1:3])))
    row_height, column_width = (factor * side + gap for side in first.shape[1:3])
    left = margin + max((int(font.getlength(label)) + margin for label in row_labels), default=0)
    widths = [max(sheet.shape[1], int(font.getlength(title))) for title, sheet in grids.items()]
    top = 14 + 2 * margin + (14 if column_labels else 0)
    height = top + max(sheet.shape[0] for sheet in grids.values()) + margin
    canvas = Image.new("RGB", (left + sum(widths) + margin * len(widths), height), "white")
    draw = ImageDraw.Draw(canvas)
    for row, label in enumerate(row_labels):
        middle = top + row * row_height + row_height // 2
        draw.text((margin, middle), label, fill="black", font=font, anchor="lm")
    for (title, sheet), width in zip(grids.items(), widths, strict=True):
        draw.text((left, margin), title, fill="black", font=font)
        for column, label in enumerate(column_labels):
            draw.text((left + column * column_width, top - 18), label, fill="black", font=font)
        canvas.paste(Image.fromarray(with_channels(sheet, 3)), (left, top))
        left += width + margin
    return np.array(canvas)
