"""A folder, zip or lmdb of images of any sizes and modes as a data set."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import PurePosixPath

import numpy as np

from cmtool import images
from cmtool.data import base
from cmtool.data._labels import Classes, of_folders, of_json, of_split
from cmtool.data._stores import Store
from cmtool.data.base import ImageSet, Indices, Pixels, Say
from cmtool.errors import DataError

DEFAULT_CROP = "dhariwal"
_FIRST_SAMPLE = re.compile(r"(|.*/)0{5,}\.png")


def image_set(
    store: Store,
    name: str,
    *,
    split: str = "train",
    split_folders: bool = True,
    image_size: int | None = None,
    channels: int | None = None,
    crop: str | None = None,
    skip_broken: bool = False,
    classify: Callable[[Sequence[str]], Classes] = of_folders,
    say: Say = base.quiet,
) -> ImageSet:
    """The images of a store, in memory if they fit, else decoded when asked for.

    Args:
        store: The files.
        name: The data set's name.
        split: "train" or "test".
        split_folders: Take the split from sub-folders of such names; else the store is that split.
        image_size: Side in pixels to crop and resize to; None: the images must be square and of one
            size.
        channels: 1 or 3; None: grey if every image is.
        crop: A name in `images.CROPS`; None: none where `image_size` is None, else `DEFAULT_CROP`.
        skip_broken: Read every file first and leave out those that cannot be read.
        classify: File names -> labels and class names, where there is no `dataset.json`.
        say: Told what was left out and what takes long.

    Raises:
        DataError: No images, no way to one size, a broken file, or wrong labels.
    """
    found = image_names(store)
    ignored = sum(not name.endswith("dataset.json") for name in store.names) - len(found)
    if ignored:
        say(f"'{store.where}': ignored {ignored} file(s) that are no images")
    found = of_split(found, split, store.where) if split_folders else found
    whole = _readable(store, found, say) if skip_broken else found
    side, depth = _geometry(store, whole, image_size, channels)
    crop = crop or ("none" if image_size is None else DEFAULT_CROP)
    labelled = of_json(store, whole)
    labels, classes = labelled if labelled is not None else classify(whole)
    shape = (depth, side, side)
    decode = _decoder(store, whole, shape, crop)
    in_memory = base.fits_in_memory(len(whole), shape)
    if in_memory:
        decode = decode(np.arange(len(whole))).__getitem__
    else:
        say(f"'{store.where}': {len(whole)} images do not fit in memory, decoded as needed")
    facts: dict[str, str | int] = {
        "name": name,
        "source": os.path.basename(os.path.abspath(store.where)),
        "split": split,
        "images": len(whole),
        "classes": len(classes),
        "image_size": side,
        "channels": depth,
        "crop": crop,
        "filter": images.FILTERS[crop],
        "ignored_files": ignored,
        "broken_files": len(found) - len(whole),
    }
    return ImageSet(name, shape, len(whole), decode, labels, classes, in_memory, True, facts)


def image_names(store: Store) -> list[str]:
    """The files that are images; not `grid.png` beside samples of ours, which shows them once more.

    Raises:
        DataError: None is.
    """
    if store.all_images and store.names:
        return list(store.names)
    found = [name for name in store.names if name.lower().endswith(images.EXTENSIONS)]
    sampled = {first[1] for name in found if (first := _FIRST_SAMPLE.fullmatch(name))}
    if found:
        return [name for name in found if name.removesuffix("grid.png") not in sampled]
    if not store.names:
        raise DataError(f"'{store.where}' is empty", "pass a folder or zip that holds images")
    kinds = Counter(PurePosixPath(name).suffix or "nameless" for name in store.names)
    held = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
    hint = (
        "pass a folder or zip of images, or a named data set with --data-dir (cmtool --list data)"
    )
    raise DataError(f"'{store.where}' holds no images: {held}", hint)


def _readable(store: Store, names: Sequence[str], say: Say) -> list[str]:
    def problem(name: str) -> str | None:
        try:
            images.read(store.get(name), store.title(name))
        except DataError as error:
            return error.message
        return None

    with ThreadPoolExecutor(_threads()) as pool:
        problems = list(pool.map(problem, names))
    for text in filter(None, problems):
        say(f"skipped: {text}")
    whole = [name for name, text in zip(names, problems, strict=True) if text is None]
    if not whole:
        raise DataError(f"'{store.where}' holds no image that can be read, {len(names)} are broken")
    return whole


def _geometry(
    store: Store, names: Sequence[str], size: int | None, channels: int | None
) -> tuple[int, int]:
    """Side and channels of the set; looks at the files only as far as it must."""
    if size is not None and channels is not None:
        return size, channels
    first, any_colour = "", False
    width = height = 0
    for name in names:
        title = store.title(name)
        with _broken_file():
            w, h, grey = images.peek(store.get(name), title)
        any_colour = any_colour or not grey
        hint = "give one size to crop and resize to: --set data.image_size=32"
        if size is None and w != h:
            raise DataError(f"'{title}' is {w}x{h}, not square", hint)
        if size is None and first and (w, h) != (width, height):
            raise DataError(
                f"images differ in size: '{first}' is {width}x{height}, '{title}' is {w}x{h}", hint
            )
        first, width, height = title, w, h
        if size is not None and any_colour:
            break
    return size or width, channels or (3 if any_colour else 1)


@contextmanager
def _broken_file() -> Iterator[None]:
    """Tells how to go on without a file that cannot be read."""
    try:
        yield
    except DataError as problem:
        cure = problem.hint or "mend it"
        hint = f"{cure}, or leave such files out: --set data.skip_broken=true"
        raise DataError(problem.message, hint) from problem


def _decoder(
    store: Store, names: Sequence[str], shape: tuple[int, int, int], crop: str
) -> Callable[[Indices], Pixels]:
    """Indices (n,) -> images (n, C, H, W), decoded by several threads."""
    cut = images.crop_named(crop)
    channels, side, _ = shape

    def one(index: int) -> Pixels:
        title = store.title(names[index])
        with _broken_file():
            image = images.with_channels(images.read(store.get(names[index]), title), channels)
        try:
            return cut(image, side)
        except ValueError as problem:
            raise DataError(
                f"image '{title}' {problem}", "choose another crop: --set data.crop=center"
            ) from problem

    pool = ThreadPoolExecutor(_threads(), thread_name_prefix="decode")

    def decode(indices: Indices) -> Pixels:
        batch = np.empty((len(indices), *shape), dtype=np.uint8)
        for row, image in enumerate(pool.map(one, indices.tolist())):
            batch[row] = image.transpose(2, 0, 1)
        return batch

    return decode


def _threads() -> int:
    return min(16, os.cpu_count() or 1)
