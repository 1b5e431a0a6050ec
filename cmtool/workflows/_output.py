"""Where drawn images go: a folder of PNG files with a grid, one grid, or an ADM-style npz.

Until all are there they lie in a draft beside the target, `.NAME.part`:

    request.json            what was asked
    00000000-00001024.npz   a batch that is drawn: its pixels and labels
    images/                 for a folder of PNG files: they, in place of the pixels

A batch counts once its file is there, which is written last and whole. So a stopped command loses
one batch at most, several processes may write at the same time, and what they draw is joined once.
"""

import json
import math
import os
import re
import shutil
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cmtool import images
from cmtool.errors import DataError
from cmtool.files import whole, why

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

GRID = "grid.png"
GRID_IMAGES = 64
"""A folder's grid shows its first images only, so that memory does not grow with their number."""
LABELS = "labels.txt"
_OURS = re.compile(rf"\d+\.png|{GRID}|{LABELS}")
_BATCH = re.compile(r"(\d+)-(\d+)")
_REQUEST = "request.json"
_STOP = "stop"


def draft_of(target: Path) -> Path:
    """Where a target's images lie until all are there."""
    return target.with_name(f".{target.name}.part")


def check_target(target: Path, *, overwrite: bool, resume: bool) -> None:
    """Checks where images are to go before any is drawn.

    Raises:
        DataError: It is there already, was begun already, or cannot be such a file or folder.
    """
    if target.name in ("", ".."):
        raise DataError(f"'{target}' is no name for images", "choose another --out")
    _kind(target)
    check_parents(target)
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
    begun = (draft_of(target) / _REQUEST).is_file()
    if resume and not begun:
        raise DataError(f"nothing to resume for '{target}'", "drop --resume to begin")
    if begun and not (resume or overwrite):
        raise DataError(
            f"'{target}' was begun already, in '{draft_of(target)}'",
            "--resume goes on, --overwrite begins anew",
        )


def check_parents(target: Path) -> None:
    """Checks that a file or folder can be made at `target`.

    Raises:
        DataError: A part of its path is a file.
    """
    blocking = next((p for p in target.parents if p.is_file()), None)
    if blocking is not None:
        raise DataError(f"'{blocking}' is a file, not a folder", "choose another --out")


def open_draft(target: Path, n: int, shape: tuple[int, int, int]) -> "Draft":
    """The draft of `n` images of `shape` (C, H, W), of a kind by the target's suffix."""
    return _kind(target)(target, n, shape)


class Draft(ABC):
    """Images 0 .. n - 1 on their way to a target; `paths` are the results, the one to look at first
    last."""

    def __init__(self, target: Path, n: int, shape: tuple[int, int, int]) -> None:
        self.target = target
        self.n = n
        self.shape = shape
        self.folder = draft_of(target)
        self.paths: tuple[Path, ...] = (target,)

    # The first process begins and finishes; every process draws its share in between.

    def begin(self, request: Mapping[str, object], *, resume: bool) -> None:
        """Makes the folder, or finds that it holds the same request's images; of these it forgets
        batches that a crash of the machine has damaged.

        Raises:
            DataError: They are another request's.
        """
        with self._writing():
            file = self.folder / _REQUEST
            asked = json.loads(json.dumps(dict(request)))
            if resume:
                _check_same(file, asked, self.target)
                (self.folder / _STOP).unlink(missing_ok=True)
                for torn in self.folder.glob("*.tmp"):
                    torn.unlink()
                for numbers in self.drawn():
                    if not self._is_whole(numbers):
                        self._part_file(numbers).unlink()
                return
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            try:
                with whole(file) as draft:
                    draft.write_bytes(json.dumps(asked, indent=1).encode())
            except OSError:
                self.discard_empty()
                raise

    def missing(self, batch: int, rank: int = 0, world: int = 1) -> list[range]:
        """One process's share of what is not drawn, in batches.

        Shares depend on n, batch and world alone, so that processes need not begin at one moment.
        """
        drawn = self.drawn()
        found: list[range] = []
        for start in range(rank * batch, self.n, world * batch):
            wanted = range(start, min(start + batch, self.n))
            inside = [part for part in drawn if part.start < wanted.stop and part.stop > start]
            edges = [start, *(edge for p in inside for edge in (p.start, p.stop)), wanted.stop]
            found += [range(a, b) for a, b in list(pairwise(edges))[::2] if a < b]
        return found

    def drawn(self) -> list[range]:
        """The batches that are drawn, in order."""
        names = sorted(path.stem for path in self.folder.glob("*.npz"))
        pairs = [_BATCH.fullmatch(name) for name in names]
        return [range(int(pair[1]), int(pair[2])) for pair in pairs if pair]

    def write(self, numbers: range, pixels: Pixels, labels: Labels | None) -> None:
        """Keeps images (n, H, W, C) and their labels (n,)."""
        with self._writing():
            arrays: dict[str, NDArray[np.generic]] = dict(self._kept(numbers, pixels))
            if labels is not None:
                arrays["labels"] = labels
            with whole(self._part_file(numbers)) as draft, draft.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)

    def finish(self) -> None:
        """Puts the whole result in its place."""
        with self._writing():
            self._join()
            shutil.rmtree(self.folder, ignore_errors=True)

    def count(self) -> int:
        """Images drawn so far."""
        return sum(map(len, self.drawn()))

    def stop(self) -> None:
        """Asks the other processes to stop."""
        with suppress(OSError):
            (self.folder / _STOP).touch()

    @property
    def stopped(self) -> bool:
        """Whether a process asked for it."""
        return (self.folder / _STOP).exists()

    def discard_empty(self) -> bool:
        """Removes the draft if no image is drawn; tells whether."""
        if self.drawn():
            return False
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, DataError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            raise DataError(
                f"cannot write '{self.target}': {why(cause)}", "free space or another --out"
            ) from None

    def _kept(self, numbers: range, pixels: Pixels) -> Mapping[str, Pixels]:
        return {"pixels": pixels}

    def _part_file(self, numbers: range) -> Path:
        return self.folder / f"{numbers.start:08d}-{numbers.stop:08d}.npz"

    def _is_whole(self, numbers: range) -> bool:
        try:
            # Of a damaged file that it opens itself `load` leaves the handle open.
            with self._part_file(numbers).open("rb") as file, np.load(file) as part:
                return all(len(part[name]) == len(numbers) for name in part.files)
        except (*(OSError, EOFError, ValueError, TypeError), zipfile.BadZipFile, zlib.error):
            return False

    def _part(self, numbers: range, name: str) -> NDArray[np.generic] | None:
        with np.load(self._part_file(numbers)) as part:
            return part[name] if name in part.files else None

    def _labels(self) -> Labels | None:
        parts = [self._part(numbers, "labels") for numbers in self.drawn()]
        found = [part.astype(np.int64) for part in parts if part is not None]
        return np.concatenate(found) if found else None

    @abstractmethod
    def _join(self) -> None:
        """Makes the result of all parts."""


class Grid(Draft):
    """One picture of all images."""

    def _join(self) -> None:
        parts = [self._part(numbers, "pixels") for numbers in self.drawn()]
        pixels = np.concatenate([part.astype(np.uint8) for part in parts if part is not None])
        images.save_png(self.target, images.grid(pixels, _square(self.n)))


class Folder(Draft):
    """00000.png, 00001.png, ..., labels.txt for a conditional model, and grid.png of the first."""

    def __init__(self, target: Path, n: int, shape: tuple[int, int, int]) -> None:
        super().__init__(target, n, shape)
        self.paths = (target, target / GRID)
        self._images = self.folder / "images"
        self._digits = max(5, len(str(n - 1)))

    def begin(self, request: Mapping[str, object], *, resume: bool) -> None:
        """Also makes the folder for the PNG files."""
        super().begin(request, resume=resume)
        with self._writing():
            self._images.mkdir(exist_ok=True)

    def _is_whole(self, numbers: range) -> bool:
        files = (Path(self._file(number)) for number in numbers)
        return super()._is_whole(numbers) and all(f.is_file() and f.stat().st_size for f in files)

    def _file(self, number: int) -> str:
        return f"{self._images}/{number:0{self._digits}d}.png"

    def _kept(self, numbers: range, pixels: Pixels) -> Mapping[str, Pixels]:
        for number, content in zip(numbers, images.pngs(pixels), strict=True):
            # Half of the time of `write_bytes`.
            file = os.open(self._file(number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                while content:  # A full disk takes a part, then refuses.
                    content = content[os.write(file, content) :]
            finally:
                os.close(file)
        return {}

    def _join(self) -> None:
        labels = self._labels()
        if labels is not None:
            text = "".join(f"{label}\n" for label in labels)
            (self._images / LABELS).write_text(text, encoding="ascii")
        files = [self._file(number) for number in range(min(self.n, GRID_IMAGES))]
        first = np.stack([images.read(Path(file), file) for file in files])
        images.save_png(self._images / GRID, images.grid(first, _square(len(first))))
        if self.target.is_dir():
            shutil.rmtree(self.target)
        self._images.rename(self.target)


class Npz(Draft):
    """`arr_0` uint8 (N, H, W, C) and, for a conditional model, `arr_1` int64 (N,): what ADM's
    evaluator reads."""

    def _join(self) -> None:
        channels, height, width = self.shape
        header = {
            "descr": "|u1",
            "fortran_order": False,
            "shape": (self.n, height, width, channels),
        }
        whole, labels = self.folder / "whole.tmp", self._labels()
        with zipfile.ZipFile(whole, "w", allowZip64=True) as archive:
            with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for numbers in self.drawn():
                    part = self._part(numbers, "pixels")
                    assert part is not None
                    member.write(np.ascontiguousarray(part).tobytes())
            if labels is not None:
                with archive.open("arr_1.npy", "w") as member:
                    np.lib.format.write_array(member, labels)
        os.replace(whole, self.target)


def _check_same(file: Path, asked: Mapping[str, object], target: Path) -> None:
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
        differ = sorted(k for k in begun.keys() | asked.keys() if begun.get(k) != asked.get(k))
    except (ValueError, AttributeError):
        raise DataError(f"'{file}' is damaged", "--overwrite begins anew") from None
    if differ:
        changes = "; ".join(
            f"{k} = {_short(begun.get(k))} -> {_short(asked.get(k))}" for k in differ
        )
        raise DataError(
            f"'{target}' was begun with another request: {changes}",
            "give the same options, or another --out; --overwrite without --resume begins anew",
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _square(n: int) -> int:
    return math.ceil(math.sqrt(n))


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
