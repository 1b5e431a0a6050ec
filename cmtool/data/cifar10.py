"""CIFAR-10: found in any usual layout, else downloaded.

Source:
    Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images";
    https://www.cs.toronto.edu/~kriz/cifar.html (the files and their md5 checksums).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmtool.data import places
from cmtool.data._arrays import Expected, Raw, file_bytes, npz_shards, shard_files, tar_members
from cmtool.data._unpickle import cifar_batch
from cmtool.data.base import Labels, Pixels, Say
from cmtool.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EXPECTED = Expected("cifar10", {"train": 50_000, "test": 10_000}, (32, 32, 3), len(CLASSES))
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
FOLDERS = ("cifar10", "CIFAR10", "cifar-10")
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"

_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_RECORD = 1 + 3072
_LIMIT = 64 * 2**20


def load(split: str, data_dir: Path | None, say: Say) -> Raw:
    """Images (N, 32, 32, 3) and labels in the official order.

    Raises:
        DataError: Not found and not downloadable, or what was found is damaged.
    """
    found = find(data_dir, split)
    if found is not None:
        return _read(found, split)
    looked = places.folders(data_dir, FOLDERS)
    archive = places.cache_dir() / "cifar10" / URL.rsplit("/", 1)[-1]
    try:
        places.download(URL, archive, MD5, say)
    except DataError as problem:
        hint = f"put {archive.name} ({URL}) into one of them, or pass --data-dir DIR"
        raise places.not_found("cifar10", looked, hint, problem.message) from problem
    return _from_tar(archive, split)


def find(data_dir: Path | None, split: str = "train") -> Path | None:
    """The archive, or the folder with the shards or batches, if there is one; reads nothing."""
    for folder in places.folders(data_dir, FOLDERS):
        if shard_files(folder, split):
            return folder
        for place in (folder / "cifar-10-batches-py", folder / "cifar-10-batches-bin", folder):
            if _batch_files(place, split):
                return place
        for name in ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"):
            if (folder / name).is_file():
                return folder / name
    return None


def _batch_files(folder: Path, split: str) -> dict[str, Path]:
    for suffix in ("", ".bin"):
        paths = {name + suffix: folder / (name + suffix) for name in _BATCHES[split]}
        if any(path.is_file() for path in paths.values()):
            return paths
    return {}


def _read(place: Path, split: str) -> Raw:
    if place.is_file():
        return _from_tar(place, split)
    raw = npz_shards(place, split, EXPECTED)
    if raw is not None:
        return raw
    files = _batch_files(place, split)
    contents = {name: file_bytes(path, _LIMIT) for name, path in files.items()}
    return _from_batches(contents, split, place)


def _from_tar(path: Path, split: str) -> Raw:
    wanted = {name + suffix for name in _BATCHES[split] for suffix in ("", ".bin")}
    return _from_batches(tar_members(path, wanted.__contains__, _LIMIT), split, path)


def _from_batches(contents: Mapping[str, bytes], split: str, path: Path) -> Raw:
    suffix = ".bin" if any(name.endswith(".bin") for name in contents) else ""
    parts = []
    for name in _BATCHES[split]:
        if name + suffix not in contents:
            raise DataError(f"'{path}' lacks '{name + suffix}'")
        content, title = contents[name + suffix], f"{path}/{name + suffix}"
        parts.append(_records(content, title) if suffix else cifar_batch(content, title))
    planes = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in parts])
    return EXPECTED.checked(planes.transpose(0, 2, 3, 1), labels, split, path)


def _records(content: bytes, name: str) -> tuple[Pixels, Labels]:
    """The binary version: one byte of label, 3072 of pixels, again and again."""
    if len(content) % _RECORD:
        raise DataError(f"'{name}' is {len(content)} bytes long, not a multiple of {_RECORD}")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0].astype(np.int64)
