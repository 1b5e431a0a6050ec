"""MNIST: found in any usual layout, else downloaded.

Source:
    LeCun, Cortes & Burges 1998, "The MNIST database of handwritten digits": the idx format. The
    files and their md5 checksums are those of torchvision's mirror, since the first site is gone.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmtool.data import places
from cmtool.data._arrays import Expected, Raw, file_bytes, npz_arrays, npz_shards, shard_files
from cmtool.data.base import Say
from cmtool.errors import DataError

CLASSES = tuple("0123456789")
EXPECTED = Expected("mnist", {"train": 60_000, "test": 10_000}, (28, 28, 1), len(CLASSES))
FOLDERS = ("mnist", "MNIST")
URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}

_PREFIX = {"train": "train", "test": "t10k"}
_LIMIT = 64 * 2**20


def load(split: str, data_dir: Path | None, say: Say) -> Raw:
    """Images (N, 28, 28, 1) and labels in the official order.

    Raises:
        DataError: Not found and not downloadable, or what was found is damaged.
    """
    found = find(data_dir, split)
    if found is not None:
        return _read(found, split)
    looked = places.folders(data_dir, FOLDERS)
    folder = places.cache_dir() / "mnist"
    files = [f"{_PREFIX[split]}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    try:
        for name in files:
            places.download(URL + name, folder / name, MD5[name], say)
    except DataError as problem:
        hint = (
            f"put {files[0]} and {files[1]} (from {URL}) into one of them, or pass --data-dir DIR"
        )
        raise places.not_found("mnist", looked, hint, problem.message) from problem
    return _from_idx(folder / files[0], folder / files[1], split)


def find(data_dir: Path | None, split: str = "train") -> Path | None:
    """The folder with the shards or the idx files, or `mnist.npz`, if there is one; reads
    nothing."""
    for folder in places.folders(data_dir, FOLDERS):
        if shard_files(folder, split):
            return folder
        if (folder / "mnist.npz").is_file():
            return folder / "mnist.npz"
        for place in (folder / "raw", folder / "MNIST" / "raw", folder):
            if all(_idx_files(place, split)):
                return place
    return None


def _idx_files(folder: Path, split: str) -> tuple[Path | None, Path | None]:
    prefix = _PREFIX[split]
    images, labels = (f"{prefix}-images", "idx3"), (f"{prefix}-labels", "idx1")
    return _idx_file(folder, *images), _idx_file(folder, *labels)


def _read(place: Path, split: str) -> Raw:
    if place.is_file():
        images, labels = npz_arrays(place, f"x_{split}", f"y_{split}")
        return EXPECTED.checked(images, labels, split, place)
    raw = npz_shards(place, split, EXPECTED)
    if raw is not None:
        return raw
    images_path, labels_path = _idx_files(place, split)
    assert images_path is not None
    assert labels_path is not None
    return _from_idx(images_path, labels_path, split)


def _idx_file(folder: Path, stem: str, kind: str) -> Path | None:
    names = [f"{stem}{dot}{kind}-ubyte{suffix}" for dot in "-." for suffix in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _from_idx(images: Path, labels: Path, split: str) -> Raw:
    return EXPECTED.checked(_idx(images), _idx(labels), split, images)


def _idx(path: Path) -> NDArray[np.uint8]:
    """An idx file: bytes 0, 0, 8, number of axes; each length as a big-endian int32; the pixels."""
    content = file_bytes(path, _LIMIT)
    axes = content[3] if len(content) >= 4 else 0
    if content[:3] != b"\0\0\x08" or axes not in (1, 3) or len(content) < 4 + 4 * axes:
        raise DataError(f"'{path}' is not an idx file of bytes")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    body = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes)
    if body.size != int(np.prod([int(n) for n in shape], dtype=object)):
        raise DataError(
            f"'{path}' is cut: {body.size} bytes for the shape {'x'.join(map(str, shape))}"
        )
    return body.reshape(shape)
