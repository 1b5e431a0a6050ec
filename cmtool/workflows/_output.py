"""Where drawn images go: a folder of PNG files with a grid, one grid, or an ADM-style npz. Each
takes one batch at a time, and leaves a whole result or none."""

import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cmtool import images
from cmtool.errors import DataError

GRID = "grid.png"
GRID_IMAGES = 64
"""A folder's grid shows its first images only, so that memory does not grow with their number."""
LABELS = "labels.txt"
_OURS = re.compile(rf"\d+\.png|{GRID}|{LABELS}")


class Writer(Protocol):
    """Takes images in order; `paths` are the results, the one to look at first last."""

    paths: tuple[Path, ...]

    def write(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
        """Takes (n, H, W, C) images and their labels (n,)."""

    def close(self) -> None:
        """Puts the result in its place."""

    def discard(self) -> None:
        """Removes what is unfinished."""


def check_target(target: Path, *, overwrite: bool) -> None:
    """Checks where images are to go before any is drawn.

    Raises:
        DataError: It is there already, or cannot be such a file or folder.
    """
    _kind(target)
    blocking = next((p for p in target.parents if p.is_file()), None)
    if blocking is not None:
        raise DataError(f"'{blocking}' is a file, not a folder", "choose another --out")
    inside = sorted(p.name for p in target.iterdir()) if target.is_dir() else []
    if inside or target.is_file():
        if not overwrite:
            raise DataError(f"'{target}' is there already", "--overwrite, or another --out")
        foreign = [name for name in inside if not _OURS.fullmatch(name)]
        if foreign:
            raise DataError(
                f"'{target}' holds more than samples and is not overwritten: '{foreign[0]}'",
                "choose another --out",
            )


@contextmanager
def open_writer(target: Path, n: int, shape: tuple[int, int, int]) -> Iterator[Writer]:
    """A writer for `n` images of `shape` (C, H, W), by the target's suffix.

    Raises:
        DataError: The disk is full or the folder is not writable.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writer = _kind(target)(target, n, shape)
        try:
            yield writer
            writer.close()
        finally:
            writer.discard()
    except (OSError, DataError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        reason = (cause.strerror or str(cause)).lower()
        raise DataError(
            f"cannot write '{target}': {reason}", "free space or another --out"
        ) from None


def _square(n: int) -> int:
    return math.ceil(math.sqrt(n))


def _draft(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.tmp")


class Grid:
    """One picture of all images."""

    def __init__(self, target: Path, n: int, shape: tuple[int, int, int]) -> None:
        self.paths: tuple[Path, ...] = (target,)
        self._columns = _square(n)
        self._pixels: list[NDArray[np.uint8]] = []

    def write(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
        self._pixels.append(pixels)

    def close(self) -> None:
        images.save_png(self.paths[0], images.grid(np.concatenate(self._pixels), self._columns))

    def discard(self) -> None:
        self._pixels.clear()


class Folder:
    """00000.png, 00001.png, ..., labels.txt for a conditional model, and grid.png of the first."""

    def __init__(self, target: Path, n: int, shape: tuple[int, int, int]) -> None:
        self._draft = _draft(target)
        self._draft.mkdir()
        self._digits = max(5, len(str(n - 1)))
        self._count = 0
        self._first: list[NDArray[np.uint8]] = []
        self.paths: tuple[Path, ...] = (target, target / GRID)

    def write(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
        for image in pixels:
            images.save_png(self._draft / f"{self._count:0{self._digits}d}.png", image)
            if self._count < GRID_IMAGES:
                self._first.append(image)
            self._count += 1
        if labels is not None:
            with (self._draft / LABELS).open("a") as file:
                file.writelines(f"{label}\n" for label in labels)

    def close(self) -> None:
        first = np.stack(self._first)
        images.save_png(self._draft / GRID, images.grid(first, _square(len(first))))
        target = self.paths[0]
        if target.is_dir():
            shutil.rmtree(target)
        self._draft.rename(target)

    def discard(self) -> None:
        shutil.rmtree(self._draft, ignore_errors=True)


class Npz:
    """`arr_0` uint8 (N, H, W, C) and, for a conditional model, `arr_1` int64 (N,): what ADM's
    evaluator reads."""

    def __init__(self, target: Path, n: int, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        self.paths: tuple[Path, ...] = (target,)
        self._draft = _draft(target)
        self._zip = zipfile.ZipFile(self._draft, "w", allowZip64=True)
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
        os.replace(self._draft, self.paths[0])

    def discard(self) -> None:
        for part in (self._member, self._zip):
            with suppress(OSError):  # A full disk stays full.
                part.close()
        self._draft.unlink(missing_ok=True)


def _kind(target: Path) -> type[Folder] | type[Grid] | type[Npz]:
    """By the suffix; one that is no word, as in `times-0.8`, belongs to a folder's name."""
    suffix = target.suffix.lower()
    if target.is_dir() or not suffix[1:].isalpha():
        return Folder
    if suffix == ".png":
        return Grid
    if suffix == ".npz":
        return Npz
    raise DataError(
        f"cannot write images to '{target}'", "--out FOLDER, --out GRID.png or --out FILE.npz"
    )
