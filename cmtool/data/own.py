"""ImageNet and LSUN from the user's own copy, prepared as in the papers: nobody may ship them.

Source:
    Dhariwal & Nichol 2021, arXiv 2105.05233, and Song et al. 2023, arXiv 2303.01469: ImageNet 64 x
    64 by the `dhariwal` crop, LSUN 256 x 256 by the `lsun` crop.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from cmtool.data import places
from cmtool.data._labels import Classes, by_key
from cmtool.data._stores import Store, open_store

_WNID = re.compile(r"(?:^|/)(n\d{8})(?=[/_])")
_IMAGENET_NAMES = (
    "imagenet64",
    "imagenet",
    "ImageNet",
    "ILSVRC2012",
    "imagenet64.zip",
    "imagenet.zip",
)
_IMAGENET_BELOW = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


def by_wnid(names: Sequence[str]) -> Classes:
    """ImageNet's classes by the WordNet id in a path: `n01440764/x.JPEG`, `n01440764_1.JPEG`."""

    def wnid(name: str) -> str:
        match = _WNID.search(name)
        return match.group(1) if match else ""

    return by_key(names, wnid)


def imagenet(split: str, data_dir: Path | None) -> Store:
    """The user's ImageNet: a folder with `train` and `val`, or a folder or zip of class folders.

    Raises:
        DataError: Not found.
    """
    found = find_imagenet(data_dir, split)
    if found is not None:
        return open_store(found, str(found))
    looked = places.folders(data_dir, _IMAGENET_NAMES)
    part = "train" if split == "train" else "val"
    hint = f"--data-dir DIR, where DIR/{part}/n01440764/*.JPEG are your own images (https://image-net.org)"
    raise places.not_found("imagenet64", looked, hint, "is not ours to download")


def find_imagenet(data_dir: Path | None, split: str = "train") -> Path | None:
    """The folder of class folders, or the zip, if there is one; reads no image."""
    for place in places.folders(data_dir, _IMAGENET_NAMES):
        for folder in (place / below for below in _IMAGENET_BELOW):
            candidates = (folder / "train", folder) if split == "train" else (folder / "val",)
            for candidate in candidates:
                if candidate.is_dir() and (split == "test" or _is_imagenet(candidate)):
                    return candidate
        if split == "train" and place.is_file():
            return place
    return None


def _is_imagenet(folder: Path) -> bool:
    return any(_WNID.match(f"{path.name}_") for path in folder.iterdir())


def lsun(category: str, split: str, data_dir: Path | None) -> Store:
    """The user's LSUN category: its lmdb as published, or a folder or zip of images.

    Raises:
        DataError: Not found.
    """
    found = find_lsun(category, data_dir, split)
    if found is not None:
        return open_store(found, str(found))
    names = _lsun_names(category, split)
    looked = places.folders(data_dir, names)
    hint = (
        f"--data-dir DIR, where DIR/{names[0]}/data.mdb is your own copy (https://www.yf.io/p/lsun)"
    )
    raise places.not_found(f"lsun-{category}", looked, hint, "is not ours to download")


def find_lsun(category: str, data_dir: Path | None, split: str = "train") -> Path | None:
    """The lmdb, folder or zip, if there is one; reads no image."""
    roots = places.roots(data_dir)
    for place in places.folders(data_dir, _lsun_names(category, split)):
        if place.exists() and (place not in roots or (split == "train" and _holds_images(place))):
            return place
    return None


def _lsun_names(category: str, split: str) -> list[str]:
    part = "train" if split == "train" else "val"
    stems = ("", "lsun/", "lsun-")
    names = [f"{stem}{category}{tail}" for stem in stems for tail in (f"_{part}_lmdb", f"_{part}")]
    if split == "train":
        names += [f"{stem}{category}{tail}" for stem in stems for tail in ("", ".zip")]
    return names


def _holds_images(folder: Path) -> bool:
    suffixes = (".mdb", ".webp", ".png", ".jpg", ".jpeg")
    return any(path.suffix.lower() in suffixes for path in folder.iterdir())
