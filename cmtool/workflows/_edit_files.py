"""Which files are edited, and where each result goes."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmtool.errors import DataError, Say
from cmtool.images import EXTENSIONS

STRIP, ANIMATION = ".compare.png", ".steps.gif"
"""Suffixes of the files beside a result."""


@dataclass(frozen=True)
class Task:
    """One picture's way.

    Args:
        source: The file.
        targets: Where its results go, one for each variant.
        truth: The clean picture, if there is one.
    """

    source: Path
    targets: tuple[Path, ...]
    truth: Path | None = None

    @property
    def done(self) -> bool:
        """Whether all results are there."""
        return all(target.is_file() for target in self.targets)

    def beside(self, suffix: str) -> Path:
        """A further file of this picture, beside its first result."""
        first = self.targets[0]
        stem = first.stem.removesuffix(".1") if len(self.targets) > 1 else first.stem
        return first.with_name(f"{stem}{suffix}")


@dataclass(frozen=True)
class Files:
    """All pictures of a command; `folder` holds the results of a folder."""

    tasks: tuple[Task, ...]
    folder: Path | None


def find_files(
    images: Sequence[Path],
    editor: str,
    *,
    n: int,
    out: Path | None,
    truth: Path | None,
    extras: Sequence[str],
    overwrite: bool,
    resume: bool,
    say: Say,
) -> Files:
    """Finds the pictures and names their results.

    Args:
        images: Files, or one folder.
        editor: Part of the results' names.
        n: Variants of each.
        out: A PNG file or a folder; None is beside the picture.
        truth: The clean picture, or a folder with the same names.
        extras: Suffixes of further files, see `Task.beside`.
        overwrite: Whether results may exist.
        resume: Whether those that exist are kept.
        say: Is told what in a folder is no picture.

    Raises:
        DataError: There is no such file, a result exists, or cannot be written there.
    """
    for path in images:
        if not path.exists():
            loose = "numbers of one option have commas between: --box 150,100,190,140"
            cure = loose if path.name.isdigit() else "check the path"
            raise DataError(f"no image file '{path}'", cure)
    folders = [path for path in images if path.is_dir()]
    if folders and len(images) > 1:
        raise DataError(f"'{folders[0]}' is a folder, and there are more inputs", "one at a time")
    folder = None
    if folders:
        folder = out or folders[0].with_name(f"{folders[0].resolve().name}.{editor}")
        _check_folder(folder, folders[0])
        sources = _pictures_in(folders[0], say)
        stems = _stems(sources)
        targets = [_numbered(folder / f"{stem}.png", n) for stem in stems]
    else:
        sources = list(images)
        targets = [_numbered(_target(path, editor, out, len(images)), n) for path in sources]
        _check_apart(sources, targets)
    tasks = tuple(
        Task(source, target, _truth_of(source, truth, alone=folder is None))
        for source, target in zip(sources, targets, strict=True)
    )
    _check_free(tasks, extras, overwrite=overwrite, resume=resume)
    return Files(tasks, folder)


def _pictures_in(folder: Path, say: Say) -> list[Path]:
    found: list[Path] = []
    other: list[Path] = []
    for path in sorted(folder.iterdir()):
        picture = path.is_file() and path.suffix.lower() in EXTENSIONS
        picture = picture and not path.name.endswith((STRIP, ANIMATION))
        (found if picture and not path.name.startswith(".") else other).append(path)
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        say(f"passed over, no pictures: {', '.join(path.name for path in other[:3])}{more}")
    if not found:
        raise DataError(
            f"no pictures in '{folder}'", f"files named {', '.join(EXTENSIONS[:4])} ..."
        )
    return found


def _stems(sources: Sequence[Path]) -> list[str]:
    """Names without suffix, with it where two would be the same."""
    count = Counter(path.stem for path in sources)
    return [path.stem if count[path.stem] == 1 else path.name for path in sources]


def _target(source: Path, editor: str, out: Path | None, count: int) -> Path:
    name = f"{source.stem}.{editor}.png"
    if out is None:
        return source.with_name(name)
    if out.is_dir() or (not out.suffix and not out.is_file()):
        return out / name
    if count > 1:
        raise DataError(f"--out '{out}' is one file, and there are {count} inputs", "--out FOLDER")
    if out.suffix.lower() != ".png":
        raise DataError(
            f"cannot write to '{out}': results are PNG files", f"--out {out.with_suffix('.png')}"
        )
    return out


def _numbered(target: Path, n: int) -> tuple[Path, ...]:
    if n == 1:
        return (target,)
    return tuple(target.with_name(f"{target.stem}.{i + 1}.png") for i in range(n))


def _truth_of(source: Path, truth: Path | None, *, alone: bool) -> Path | None:
    if truth is None:
        return None
    if not truth.exists():
        raise DataError(f"no image file '{truth}'", "--truth with the clean picture")
    if truth.is_dir():
        same = [path for path in sorted(truth.iterdir()) if path.stem == source.stem]
        if not same:
            raise DataError(
                f"'{truth}' has no picture named '{source.stem}'", "the same names as the inputs"
            )
        return same[0]
    if not alone:
        raise DataError(f"--truth '{truth}' is a file", "a folder with the same names")
    return truth


def _check_apart(sources: Sequence[Path], targets: Sequence[tuple[Path, ...]]) -> None:
    seen: dict[Path, Path] = {}
    for source, group in zip(sources, targets, strict=True):
        for target in group:
            if target in seen:
                raise DataError(
                    f"the results of '{seen[target]}' and '{source}' would be one file, '{target}'",
                    "leave --out away, or rename one",
                )
            if target.resolve() == source.resolve():
                raise DataError(f"--out '{target}' is the input itself", "another --out")
            seen[target] = source


def _check_folder(folder: Path, source: Path) -> None:
    if folder.is_file() or folder.suffix.lower() in EXTENSIONS:
        raise DataError(f"--out '{folder}' is a file, and the input is a folder", "--out FOLDER")
    if folder.resolve() == source.resolve():
        raise DataError(f"--out '{folder}' is the input itself", "another --out")


def _check_free(
    tasks: Sequence[Task], extras: Sequence[str], *, overwrite: bool, resume: bool
) -> None:
    for task in tasks:
        for path in (*task.targets, *map(task.beside, extras)):
            if path.is_dir():
                raise DataError(f"'{path}' is a folder", "another --out")
            if path.exists() and not (overwrite or resume):
                raise DataError(f"'{path}' is there already", "--overwrite, or another --out")
        place = next(p for p in task.targets[0].parents if p.exists())
        if not place.is_dir():
            raise DataError(f"'{place}' is a file, not a folder", "another --out")
        if not os.access(place, os.W_OK):
            raise DataError(f"cannot write to the folder '{place}'", "--out FILE|FOLDER elsewhere")
