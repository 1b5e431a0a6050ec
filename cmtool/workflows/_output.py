"""Where drawn images go: a folder of PNG files with a grid, one grid, or an ADM-style npz. Each
takes one batch at a time."""

import math
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cmtool import images
from cmtool.errors import DataError

GRID = "grid.png"
GRID_IMAGES = 64
"""A folder's grid shows its first images only, so that memory does not grow with their number."""


class Writer(Protocol):
    """Takes images in order; `paths` are the results, the one to look at first last."""

    paths: tuple[Path, ...]

    def write(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
        """Takes (n, H, W, C) images and their labels (n,)."""

    def close(self) -> None:
        """Finishes the output."""


@contextmanager
def open_writer(target: Path, n: int, shape: tuple[int, int, int]) -> Iterator[Writer]:
    """A writer for `n` images of `shape` (C, H, W), by the target's suffix.

    Raises:
        DataError: The disk is full, the folder is not writable or the suffix is unknown.
    """
    kinds: dict[str, type[Folder] | type[Grid] | type[Npz]] = {
        "": Folder,
        ".png": Grid,
        ".npz": Npz,
    }
    if target.suffix not in kinds or (target.suffix and target.is_dir()):
        raise DataError(f"cannot write images to '{target}'", "a folder, a .png or a .npz file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writer = kinds[target.suffix](target, n, shape)
        yield writer
        writer.close()
    except OSError as error:
        raise DataError(
            f"cannot write '{target}': {error.strerror or error}", "free space or another --out"
        ) from None


def _square(n: int) -> int:
    return math.ceil(math.sqrt(n))


class Grid:
    """One picture of all images."""

    def __init__(self, target: Path, n: int, shape: tuple[int, int, int]) -> None:
        self.paths: tuple[Path, ...] = (target,)
        self._n = n
        self._pixels: list[NDArray[np.uint8]] = []

    def write(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
        self._pixels.append(pixels)

    def close(self) -> None:
        images.save_png(self.paths[0], images.grid(np.concatenate(self._pixels), _square(self._n)))


class Folder:
    """00000.png, 00001.png, ..., labels.txt for a conditional model, and grid.png of the first
    images."""

    def __init__(self, target: Path, n: int, shape: tuple[int, int, int]) -> None:
        if target.is_file():
            raise DataError(f"'{target}' is a file, not a folder")
        if target.is_dir():
            shutil.rmtree(target)
        target.mkdir(parents=True)
        self._folder = target
        self._digits = max(5, len(str(n - 1)))
        self._count = 0
        self._first: list[NDArray[np.uint8]] = []
        self.paths: tuple[Path, ...] = (target, target / GRID)

    def write(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
        for image in pixels:
            images.save_png(self._folder / f"{self._count:0{self._digits}d}.png", image)
            if self._count < GRID_IMAGES:
                self._first.append(image)
            self._count += 1
        if labels is not None:
            with (self._folder / "labels.txt").open("a") as file:
                file.writelines(f"{label}\n" for label in labels)

    def close(self) -> None:
        first = np.stack(self._first)
        images.save_png(self._folder / GRID, images.grid(first, _square(len(first))))


class Npz:
    """`arr_0` uint8 (N, H, W, C) and, for a conditional model, `arr_1` int64 (N,): what ADM's
    evaluator reads."""

    def __init__(self, target: Path, n: int, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        self.paths: tuple[Path, ...] = (target,)
        self._work = target.with_name(target.name + ".tmp")
        self._zip = zipfile.ZipFile(self._work, "w", allowZip64=True)
        self._member = self._zip.open("arr_0.npy", "w", force_zip64=True)
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, height, width, channels)}
        np.lib.format.write_array_header_1_0(self._member, header)
        self._labels: list[NDArray[np.int64]] = []

    def write(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
        self._member.write(np.ascontiguousarray(pixels).tobytes())
        if labels is not None:
            self._labels.append(labels)

    def close(self) -> None:
        self._member.close()
        if self._labels:
            with self._zip.open("arr_1.npy", "w") as member:
                np.lib.format.write_array(member, np.concatenate(self._labels))
        self._zip.close()
        os.replace(self._work, self.paths[0])
