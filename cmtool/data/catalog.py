"""Opens a data set by its name or its path."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtool import images
from cmtool.data import base, cifar10, digits, mnist
from cmtool.data._arrays import Raw
from cmtool.data._labels import Classes, of_folders, unlabelled
from cmtool.data._stores import open_store
from cmtool.data.base import ImageSet, Say, Split
from cmtool.data.folder import DEFAULT_CROP, image_set
from cmtool.data.names import names
from cmtool.data.own import by_wnid, imagenet, lsun
from cmtool.errors import DataError, did_you_mean
from cmtool.files import why

MAX_SIZE = 4096
"""No larger side in pixels is believed."""


class _Wanted(NamedTuple):
    split: Split
    image_size: int | None
    channels: int | None
    crop: str | None
    skip_broken: bool
    say: Say


def open_data(
    spec: str,
    *,
    data_dir: Path | None = None,
    split: Split = "train",
    image_size: int | None = None,
    channels: int | None = None,
    crop: str | None = None,
    skip_broken: bool = False,
    say: Say = base.quiet,
) -> ImageSet:
    """Opens a data set.

    Args:
        spec: A name (`cmtool.data.names.names()`), else the path of a folder or zip of images.
        data_dir: Where to look for a data set of that name first; then $CMTOOL_DATA and the user's
            cache.
        split: "test" is for evaluation only.
        image_size: Side in pixels; None keeps the data set's own.
        channels: 1 or 3; None keeps the data set's own.
        crop: How to come to `image_size`, a name in `images.CROPS`; None: the data set's own way.
        skip_broken: Leave out files that cannot be read, instead of stopping at the first.
        say: Told of downloads and of what was left out.

    Raises:
        DataError: Not found, broken, or not of one size.

    Example:
        >>> data = open_data("digits")
        >>> len(data), data.image_shape, data.num_classes
        (1400, (1, 8, 8), 10)
    """
    wanted = _Wanted(split, image_size, channels, crop, skip_broken, say)
    _check(wanted)
    try:
        return _open(spec, data_dir, wanted)
    except OSError as problem:
        raise DataError(f"cannot read '{problem.filename or spec}': {why(problem)}") from problem


def _open(spec: str, data_dir: Path | None, wanted: _Wanted) -> ImageSet:
    split, image_size, channels, crop, skip_broken, say = wanted
    if spec in ("digits", "mnist", "cifar10"):
        return _published(spec, data_dir, wanted)
    name, split_folders = spec, False
    classify: Callable[[Sequence[str]], Classes] = of_folders
    if spec == "imagenet64":
        store, classify = imagenet(split, data_dir), by_wnid
        image_size, channels, crop = image_size or 64, channels or 3, crop or "dhariwal"
    elif spec in ("lsun-bedroom", "lsun-cat"):
        store, classify = lsun(spec.removeprefix("lsun-"), split, data_dir), unlabelled
        image_size, channels, crop = image_size or 256, channels or 3, crop or "lsun"
    else:
        path = Path(spec).expanduser()
        if not spec or not path.exists():
            hint = f"a name ({', '.join(names())}), or the path of a folder or zip of images"
            raise DataError(
                f"no data set, folder or zip '{spec}'{did_you_mean(spec, names())}", hint
            )
        store, name, split_folders = open_store(path, spec), path.resolve().name, True
    return image_set(
        store,
        name,
        split=split,
        split_folders=split_folders,
        image_size=image_size,
        channels=channels,
        crop=crop,
        skip_broken=skip_broken,
        classify=classify,
        say=say,
    )


def _check(wanted: _Wanted) -> None:
    split, image_size, channels, crop, *_ = wanted
    if split not in ("train", "test"):
        raise DataError(f"split must be 'train' or 'test', got '{split}'")
    if image_size is not None and not 1 <= image_size <= MAX_SIZE:
        raise DataError(
            f"image size must be 1 .. {MAX_SIZE}, got '{image_size}'", "--set data.image_size=32"
        )
    if channels not in (None, 1, 3):
        raise DataError(f"images have 1 or 3 channels, got '{channels}'", "--set data.channels=3")
    if crop is not None:
        images.crop_named(crop)


def _published(name: str, data_dir: Path | None, wanted: _Wanted) -> ImageSet:
    """Digits, MNIST or CIFAR-10, resized only where that is asked for."""
    split, image_size, channels, crop, _, say = wanted
    if name == "digits":
        raw, classes = digits.load(split), digits.CLASSES
    elif name == "mnist":
        raw, classes = mnist.load(split, data_dir, say), mnist.CLASSES
    else:
        raw, classes = cifar10.load(split, data_dir, say), cifar10.CLASSES
    stored = raw.images.shape[1]
    size, depth = image_size or stored, channels or raw.images.shape[3]
    crop = "none" if size == stored else crop or DEFAULT_CROP
    pixels = _refit(raw, name, size, depth, crop)
    facts: dict[str, str | int] = {
        "name": name,
        "source": raw.path.name,
        "split": split,
        "images": len(pixels),
        "classes": len(classes),
        "image_size": size,
        "channels": depth,
        "crop": crop,
        "filter": images.FILTERS[crop],
    }
    return ImageSet.from_array(
        name, pixels, raw.labels, classes, flip_ok=name == "cifar10", facts=facts
    )


def _refit(raw: Raw, name: str, size: int, channels: int, crop: str) -> base.Pixels:
    """(N, H, W, C) of one size -> (N, channels, size, size)."""
    if raw.images.shape[1:] == (size, size, channels):
        return np.ascontiguousarray(raw.images.transpose(0, 3, 1, 2))
    cut = images.crop_named(crop)
    pixels = np.empty((len(raw.images), channels, size, size), dtype=np.uint8)
    try:
        for row, image in enumerate(raw.images):
            pixels[row] = cut(images.with_channels(image, channels), size).transpose(2, 0, 1)
    except ValueError as problem:
        raise DataError(
            f"an image of '{name}' {problem}", "choose another crop: --set data.crop=center"
        ) from problem
    return pixels
