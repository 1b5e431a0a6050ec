"""What the named data sets share: checked arrays, npz shards, safe reading of archive members."""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmtool.data.base import Labels, Pixels
from cmtool.errors import DataError


class Raw(NamedTuple):
    """Images (N, H, W, C) uint8, labels (N,) int64, and the path they came from."""

    images: Pixels
    labels: Labels
    path: Path


@dataclass(frozen=True)
class Expected:
    """What a published data set is known to hold, so that half of one is never trained on."""

    name: str
    counts: Mapping[str, int]
    shape: tuple[int, int, int]
    num_classes: int

    def checked(self, images: NDArray[Any], labels: NDArray[Any], split: str, path: Path) -> Raw:
        """The arrays as `Raw`.

        Raises:
            DataError: They are of another type, shape or count, or a label is out of range.
        """
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.dtype.kind not in "iu":
            raise DataError(
                f"'{path}' holds {images.dtype} images and {labels.dtype} labels, "
                "not bytes and whole numbers"
            )
        images = images.reshape(*images.shape, 1) if images.ndim == 3 else images
        want = (self.counts[split], *self.shape)
        if images.shape != want or labels.shape != want[:1]:
            raise DataError(
                f"'{path}' holds {_describe(images.shape)} and {labels.size} labels, "
                f"the {split} split of {self.name} is {_describe(want)}"
            )
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise DataError(f"'{path}' holds labels outside 0 .. {self.num_classes - 1}")
        return Raw(np.ascontiguousarray(images), labels.astype(np.int64), path)


def _describe(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} images of {'x'.join(map(str, shape[1:]))}"


def shard_files(folder: Path, split: str) -> list[Path]:
    """`SPLIT.npz`, or `SPLIT_0.npz`, `SPLIT_1.npz` ... in order; none if there is neither."""
    single = folder / f"{split}.npz"
    if single.is_file():
        return [single]
    numbered = [
        path for path in folder.glob(f"{split}_*.npz") if path.stem[len(split) + 1 :].isdigit()
    ]
    return sorted(numbered, key=lambda path: int(path.stem[len(split) + 1 :]))


def npz_shards(folder: Path, split: str, expected: Expected) -> Raw | None:
    """`SPLIT.npz`, or `SPLIT_0.npz`, `SPLIT_1.npz` ... joined; None if there is neither.

    Each holds `images`, (N, H, W, C) or (N, H, W), and `labels`, (N,).

    Raises:
        DataError: A shard is broken or something else.
    """
    shards = shard_files(folder, split)
    if not shards:
        return None
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(lambda path: npz_arrays(path, "images", "labels"), shards))
    try:
        images = np.concatenate([part[0] for part in parts])
        labels = np.concatenate([part[1] for part in parts])
    except ValueError as problem:
        raise DataError(
            f"the shards {split}_*.npz in '{folder}' do not fit together: {problem}"
        ) from problem
    return expected.checked(images, labels, split, shards[0] if len(shards) == 1 else folder)


def npz_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Arrays of an npz file, never by unpickling.

    Raises:
        DataError: The file is broken or lacks one of them.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise DataError(
                    f"'{path}' has no array '{missing[0]}', it has {', '.join(archive) or 'none'}"
                )
            return [archive[name] for name in names]
    except DataError:
        raise
    # A damaged zip member may raise nearly anything: BadZipFile, zlib.error, LZMAError, EOFError,
    # MemoryError ...
    except Exception as problem:
        raise DataError(
            f"cannot read '{path}': {str(problem) or type(problem).__name__}"
        ) from problem


def file_bytes(path: Path, limit: int) -> bytes:
    """A file's contents, gunzipped if it is named `.gz`, and no more than `limit` bytes.

    Raises:
        DataError: It is unreadable, damaged or larger.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content: bytes = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"cannot read '{path}': {problem}") from problem
    if len(content) > limit:
        raise DataError(f"'{path}' holds more than the {limit:,} bytes that it should")
    return content


def tar_members(path: Path, wanted: Callable[[str], bool], limit: int) -> dict[str, bytes]:
    """The wanted plain files of a tar archive, read in memory: nothing is unpacked to the disk.

    Raises:
        DataError: The archive is damaged, or a member is larger than `limit` bytes.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                if member.size > limit:
                    raise DataError(
                        f"'{path}' holds '{member.name}' of {member.size:,} bytes, too many"
                    )
                if member.isfile() and wanted(name):
                    file = archive.extractfile(member)
                    found[name] = file.read() if file else b""
    except DataError:
        raise
    except (
        Exception
    ) as problem:  # tarfile.TarError, zlib.error, EOFError, and what odd headers make of them
        raise DataError(f"cannot read '{path}': {problem}") from problem
    return found
