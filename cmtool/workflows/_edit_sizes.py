"""Pictures of other sizes than the model's: padding, resizing, tiles, and what is brought back."""

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from cmtool.tensors import Denoise

Size = tuple[int, int]
"""Height and width."""

COARSE = 4.0
"""Pixels of a blur's standard deviation at most."""


def fitted(size: Size, room: Size) -> Size:
    """A size scaled down to fit into `room`, of the same shape as nearly as whole pixels can."""
    scale = min(1.0, *(r / s for r, s in zip(room, size, strict=True)))
    height, width = (max(1, round(s * scale)) for s in size)
    return height, width


def resize(x: Tensor, size: Size) -> Tensor:
    """Bilinear resizing that averages where it makes smaller: (B, C, H, W) -> (B, C, *size)."""
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)


def enlarge(x: Tensor, size: Size) -> Tensor:
    """Bicubic enlarging: (B, C, H, W) -> (B, C, *size)."""
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bicubic", align_corners=False)


def around(hole: Tensor, least: Size) -> tuple[slice, slice]:
    """The rows and columns of a window about a hole: a square twice as large as the hole, so that
    as much is known as is not, and at least of the size `least`; all of a smaller picture, and of
    one without a hole.

    Args:
        hole: (1, 1, H, W), 1 in the hole and 0 outside.
        least: The model's size.

    Example:
        >>> hole = torch.zeros(1, 1, 100, 100)
        >>> hole[..., 2:12, 50:70] = 1
        >>> around(hole, (32, 32))
        (slice(0, 40, None), slice(40, 80, None))
    """
    if not hole.any():
        return slice(0, hole.shape[2]), slice(0, hole.shape[3])
    found = [torch.nonzero(hole.amax(axes)).flatten() for axes in ((0, 1, 3), (0, 1, 2))]
    ends = [(int(f[0]), int(f[-1]) + 1) for f in found]
    side = max(2 * max(last - first for first, last in ends), *least)
    window = []
    for (first, last), length in zip(ends, hole.shape[2:], strict=True):
        size = min(side, length)
        begin = min(max(0, (first + last - size) // 2), length - size)
        window.append(slice(begin, begin + size))
    return window[0], window[1]


def shrink_known(x: Tensor, hole: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Resizes pictures with a hole whose content must not leak out.

    Args:
        x: (B, C, H, W) pictures.
        hole: (B or 1, 1, H, W), 1 in the hole and 0 outside.
        size: What to resize to.

    Returns:
        The pictures, made of known pixels alone where there are any near, and the hole: every pixel
        that covers a part of the old one, 1 or 0.
    """
    known = 1 - hole
    weight = resize(known, size)
    small = resize(known * x, size) / weight.clamp(min=1e-6)
    scale = [a / b for a, b in zip(hole.shape[2:], size, strict=True)]
    covered = resize(hole, size) if max(scale) <= 1 else F.adaptive_max_pool2d(hole, size)
    return torch.where(weight > 1e-6, small, 0), (covered > 0).to(x)


class Padding:
    """Padding by reflection up to a smallest size, and back.

    Args:
        size: The pictures' height and width.
        least: What they must have at least.
    """

    def __init__(self, size: Size, least: Size) -> None:
        self.size = size
        self.total = (max(size[0], least[0]), max(size[1], least[1]))
        self.before = tuple((t - s) // 2 for t, s in zip(self.total, size, strict=True))

    def __bool__(self) -> bool:
        return self.total != self.size

    def pad(self, x: Tensor) -> Tensor:
        """(B, C, *size) -> (B, C, *total): mirrored about the outermost pixels, again and again
        where the picture is small."""
        rows, columns = (
            _mirrored(size, total, before, x.device)
            for size, total, before in zip(self.size, self.total, self.before, strict=True)
        )
        return x[:, :, rows[:, None], columns]

    def crop(self, x: Tensor, factor: int = 1) -> Tensor:
        """The middle again, of pictures that may have become `factor` times as large."""
        top, left = (factor * b for b in self.before)
        height, width = (factor * s for s in self.size)
        return x[:, :, top : top + height, left : left + width]


def _mirrored(size: int, total: int, before: int, device: torch.device) -> Tensor:
    """For each of `total` places which of `size` pixels lies there."""
    if size == 1:
        return torch.zeros(total, dtype=torch.int64, device=device)
    period = 2 * (size - 1)
    place = (torch.arange(total, device=device) - before) % period
    return torch.minimum(place, period - place)


def center_square(x: Tensor) -> Tensor:
    """The largest centred square: (B, C, H, W) -> (B, C, S, S)."""
    height, width = x.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return x[:, :, top : top + side, left : left + side]


def bring_into_hole(picture: Tensor, hole: Tensor, small: Tensor) -> Tensor:
    """Puts a small result into the hole of a large picture.

    At the hole's edge the enlarged result is moved towards the known pixels' colours, less and less
    inwards, so that no seam is seen; the picture outside the hole stays.

    Args:
        picture: (B, C, H, W).
        hole: (B or 1, 1, H, W), 1 in the hole and 0 outside.
        small: (B, C, h, w) the result for the whole picture.

    Returns:
        (B, C, H, W).
    """
    size = (picture.shape[2], picture.shape[3])
    fill = enlarge(small, size)
    radius = max(size[0] / small.shape[2], size[1] / small.shape[3])
    # A wide blur is as good on a coarse copy.
    scale = min(1.0, COARSE / radius)
    coarse = (math.ceil(scale * size[0]), math.ceil(scale * size[1]))
    known = resize(1 - hole, coarse).expand(len(picture), -1, -1, -1)
    off = resize((1 - hole) * (picture - fill), coarse)
    near = _blur(known, scale * radius)
    off = _blur(off, scale * radius) / near.clamp(min=1e-6)
    moved = enlarge((2 * near).clamp(max=1) * off, size)
    return torch.where(hole > 0, fill + moved, picture)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur with nothing beyond the border: (B, C, H, W)."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, -1)
    rows = F.conv2d(x, weights[:, :, None], padding=(0, reach), groups=x.shape[1])
    return F.conv2d(rows, weights[..., None], padding=(reach, 0), groups=x.shape[1])


def tile_starts(size: int, tile: int) -> list[int]:
    """Where tiles begin that cover `size` pixels evenly and overlap by a quarter or more."""
    if size <= tile:
        return [0]
    count = math.ceil((size - tile) / max(1, tile * 3 // 4)) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def tiled(denoise: Denoise, tile: Size, batch: int, spent: Callable[[int], None]) -> Denoise:
    """A model of small images as one of large images: it sees overlapping tiles, and a pixel is
    their mean under a smooth window. So there is one answer where tiles overlap.

    Args:
        denoise: The model; it must answer for any number of images.
        tile: Its size.
        batch: Images in one call.
        spent: Is told how many images each call had.
    """
    window = _window(tile[0])[:, None] * _window(tile[1])

    def whole(x: Tensor, t: Tensor) -> Tensor:
        starts = list(product(*(tile_starts(x.shape[a + 2], tile[a]) for a in (0, 1))))
        places = [(i, top, left) for i in range(len(x)) for top, left in starts]
        weights = window.to(x)
        total, weight = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        for top, left in starts:
            weight[:, :, top : top + tile[0], left : left + tile[1]] += weights
        for first in range(0, len(places), batch):
            some = places[first : first + batch]
            views = [x[i, :, a : a + tile[0], b : b + tile[1]] for i, a, b in some]
            times = t[torch.tensor([i for i, _, _ in some], device=t.device)]
            answers = denoise(torch.stack(views), times).to(x)
            spent(len(some))
            for (i, a, b), answer in zip(some, answers, strict=True):
                total[i, :, a : a + tile[0], b : b + tile[1]] += weights * answer
        return total / weight

    return whole


def _window(length: int) -> Tensor:
    """Distances to the nearer end, (length,): where two tiles overlap they cross-fade evenly."""
    places = torch.arange(length, dtype=torch.float64) + 0.5
    return torch.minimum(places, length - places)
