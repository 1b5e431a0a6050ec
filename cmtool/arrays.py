"""Pictures as Python has them, for `cmtool.edit`: Pillow's, arrays and tensors to a batch and back.

Numbers are bytes, 0 to 255, or floating-point numbers in [-1, 1]; masks are booleans, bytes or
numbers in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmtool.errors import DataError
from cmtool.images import from_uint8, to_uint8
from cmtool.pictures import Picture, from_pil, is_pil

Back = Callable[[Tensor], Any]
"""(B, C, H, W) in [-1, 1] to what was given."""


def as_batch(image: Any, *, opaque: bool = False) -> tuple[Tensor, Back, Tensor | None]:
    """Reads pictures.

    Args:
        image: A Pillow image, an array (H, W), (H, W, C) or (N, H, W, C), a tensor (C, H, W) or (N,
            C, H, W), or a list of one kind and size.
        opaque: Whether results lose the transparency that Pillow images had.

    Returns:
        (B, C, H, W) float in [-1, 1], C = 1 or 3; what makes the same kind of a result; and the
        transparency of Pillow images, (B, 1, H, W) in [0, 1], if they have some.

    Raises:
        DataError: It is nothing of that, or not finite, or leaves [-1, 1].
    """
    if isinstance(image, list | tuple):
        return _as_list(image, opaque=opaque)
    if is_pil(image):
        picture = _picture(image)

        def to_pil(x: Tensor) -> Any:
            pixels = to_uint8(x)[0].permute(1, 2, 0).cpu().numpy()
            found = picture.with_pixels(pixels)
            return (replace(found, alpha=None) if opaque else found).to_pil()

        alpha = picture.alpha
        shade = None if alpha is None else torch.from_numpy(alpha.copy())[None, None] / 255
        return picture.tensor(picture.pixels.shape[2]), to_pil, shade
    if isinstance(image, np.ndarray):
        batch, back = _as_array(image)
        return batch, back, None
    if isinstance(image, Tensor):
        batch, back = _as_tensor(image)
        return batch, back, None
    raise DataError(
        f"cannot edit a {type(image).__name__}", "a Pillow image, an array, a tensor or a list"
    )


def as_mask(mask: Any, name: str) -> Tensor:
    """Reads a mask or a kernel: Pillow image, array or tensor (H, W), (N, H, W) or (N, 1, H, W) to
    (B, 1, H, W) float in [0, 1].

    Raises:
        DataError: It is nothing of that.
    """
    if is_pil(mask):
        mask = _picture(mask).tensor(1)[0] / 2 + 0.5
    try:
        given = torch.as_tensor(np.array(mask) if isinstance(mask, np.ndarray) else mask)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{name} is a {type(mask).__name__}", "an array (H, W)") from None
    if given.dtype == torch.uint8 and given.numel() and given.max() == 1:
        raise DataError(f"{name} has bytes of 0 and 1, and white is 255", f"{name}.astype(bool)")
    x = given.to(torch.float64) / (255 if given.dtype == torch.uint8 else 1)
    x = x[None] if x.ndim == 2 else x
    x = x[:, None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[1] != 1 or x.numel() == 0:
        raise DataError(
            f"{name} has shape {tuple(given.shape)}", "(H, W), (N, H, W) or (N, 1, H, W)"
        )
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise DataError(f"{name} leaves 0 .. 1", "bools, bytes, or numbers in [0, 1]")
    return x


def _as_list(pictures: Sequence[Any], *, opaque: bool) -> tuple[Tensor, Back, Tensor | None]:
    if not pictures:
        raise DataError("the list of pictures is empty")
    read = [as_batch(picture, opaque=opaque) for picture in pictures]
    shapes = {tuple(batch.shape) for batch, _, _ in read}
    if len(shapes) > 1:
        told = ", ".join("x".join(map(str, shape[1:])) for shape in sorted(shapes))
        raise DataError(f"the pictures of a list differ: {told} (CxHxW)", "one call for each size")
    if next(iter(shapes))[0] != 1:
        raise DataError("a list of batches", "one batch, or a list of pictures")
    shades = [torch.ones_like(batch[:, :1]) if a is None else a for batch, _, a in read]
    transparent = any(alpha is not None for _, _, alpha in read)

    def back(x: Tensor) -> list[Any]:
        return [one(x[i : i + 1]) for i, (_, one, _) in enumerate(read)]

    whole = torch.cat([batch for batch, _, _ in read])
    return whole, back, torch.cat(shades) if transparent else None


def _as_array(image: np.ndarray[Any, Any]) -> tuple[Tensor, Back]:
    ndim = image.ndim
    if ndim not in (2, 3, 4):
        raise DataError(
            f"an array of shape {image.shape} is no picture", "(H, W), (H, W, C) or (N, H, W, C)"
        )
    views = image[None, :, :, None] if ndim == 2 else image[None] if ndim == 3 else image
    try:
        batch = _checked(torch.from_numpy(np.array(views, order="C")).permute(0, 3, 1, 2))
    except TypeError:
        hint = "bytes, or floating-point numbers in [-1, 1]"
        raise DataError(f"pictures of {image.dtype}", hint) from None

    def back(x: Tensor) -> np.ndarray[Any, Any]:
        pixels = to_uint8(x) if image.dtype == np.uint8 else x
        array = pixels.permute(0, 2, 3, 1).cpu().numpy().astype(image.dtype)
        array = array if ndim == 4 else array[0]
        return array[:, :, 0] if ndim == 2 and array.shape[2] == 1 else array

    return batch, back


def _as_tensor(image: Tensor) -> tuple[Tensor, Back]:
    if image.ndim not in (3, 4):
        raise DataError(
            f"a tensor of shape {tuple(image.shape)} is no picture", "(C, H, W) or (N, C, H, W)"
        )
    batch = _checked(image.detach() if image.ndim == 4 else image.detach()[None])

    def back(x: Tensor) -> Tensor:
        found = (to_uint8(x) if image.dtype == torch.uint8 else x).to(image)
        return found if image.ndim == 4 else found[0]

    return batch, back


def _checked(batch: Tensor) -> Tensor:
    """(B, C, H, W) bytes or numbers -> (B, C, H, W) float in [-1, 1]."""
    if batch.numel() == 0 or batch.shape[1] not in (1, 3):
        shape = "x".join(map(str, batch.shape[1:]))
        raise DataError(f"a picture of {shape} (CxHxW)", "1 or 3 channels, at least one pixel")
    if batch.dtype == torch.uint8:
        return from_uint8(batch)
    if not batch.is_floating_point():
        raise DataError(f"pictures of {batch.dtype}", "bytes, or floating-point numbers in [-1, 1]")
    if not bool(batch.isfinite().all()):
        raise DataError("the picture holds numbers that are not finite", "NaN is no colour")
    low, high = float(batch.min()), float(batch.max())
    if low < -1 or high > 1:
        raise DataError(
            f"the picture's numbers are {low:g} .. {high:g}, outside [-1, 1]",
            "bytes, or x / 127.5 - 1",
        )
    return batch


def _picture(image: Any) -> Picture:
    try:
        return from_pil(image)
    except (ValueError, OSError) as problem:
        raise DataError(f"cannot read the picture: {problem}") from problem
