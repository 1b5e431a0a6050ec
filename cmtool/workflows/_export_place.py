"""Where an export goes: everything is written in a draft beside the target, `.NAME.export/`, and
put in its place once it has passed its check."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from safetensors import SafetensorError

from cmtool.errors import CheckpointError, Stopped
from cmtool.workflows._output import check_parents

CARD, REPORT = "README.md", "check.json"
"""Names inside a folder; beside a file they are NAME.md and NAME.json."""


def companions(target: Path, *, folder: bool) -> tuple[Path, Path]:
    """Where the model card and the report of an export go."""
    if folder:
        return target / CARD, target / REPORT
    return target.with_name(f"{target.name}.md"), target.with_name(f"{target.name}.json")


def check_place(target: Path, *, folder: bool, overwrite: bool, model: Path) -> None:
    """Checks where an export is to go before anything is done.

    Raises:
        CheckpointError: It is there already, is the model, or is no export of ours.
    """
    here, there = target.resolve(), model.resolve()
    if target.name in ("", "..") or here in (there, *there.parents):
        raise CheckpointError(f"'{target}' is, or holds, the model itself", "another --out")
    if (here.parent / "meta.json").is_file() and target.exists():
        raise CheckpointError(f"'{target}' is a part of a checkpoint", "another --out")
    if target.is_dir() != folder and target.exists():
        kind = "a file" if folder else "a folder"
        raise CheckpointError(f"'{target}' is {kind}", "another --out")
    taken = [p for p in (target, *companions(target, folder=folder)) if p.exists()]
    if folder and target.is_dir() and not any(target.iterdir()):
        taken = []
    if taken and not overwrite:
        raise CheckpointError(f"'{taken[0]}' is there already", "--overwrite, or another --out")
    if folder and taken and not (target / REPORT).is_file():
        raise CheckpointError(
            f"'{target}' is no export of cmtool and is not overwritten", "another --out"
        )
    check_parents(target)


@contextmanager
def draft(target: Path) -> Iterator[Path]:
    """An empty folder to write into; it is removed whatever happens, unless it was moved away.

    Raises:
        CheckpointError: The disk is full or not writable.
        Stopped: SIGTERM came; Ctrl-C is a KeyboardInterrupt as everywhere.
    """
    # Only the main thread may set handlers.
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _stop) if main else None
    folder = target.with_name(f".{target.name}.export")
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
    except _Terminated:
        raise Stopped("stopped; nothing is written", None, signal.SIGTERM) from None
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _of_the_disk(error)
        if reason is None:
            raise
        raise CheckpointError(
            f"cannot write '{target}': {reason.lower()}", "free space or another --out"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if main:
            signal.signal(signal.SIGTERM, before)
        with suppress(OSError):  # Those that hold something by now stay.
            for parent in made:
                parent.rmdir()


class _Terminated(BaseException):
    """SIGTERM came; no Exception, which torch's exporter would take for a failure of its own."""


def _stop(signum: int, frame: FrameType | None) -> None:
    raise _Terminated


def _of_the_disk(error: Exception) -> str | None:
    """What is wrong with the disk, if that is the error's cause."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, SafetensorError):
        return str(error).rpartition("I/O error: ")[2]
    # torch has no type for it: its writer of zip files complains of what reached the disk.
    parts = ("PytorchStreamWriter", "inline_container")
    if any(part in str(error) for part in parts):
        return "the disk is full, or took a part only"
    return None


def keep(folder: Path, target: Path) -> Path:
    """Moves a draft that did not pass its check out of the way, under no final name."""
    kept = target.with_name(f"{target.name}.failed")
    shutil.rmtree(kept, ignore_errors=True)
    folder.rename(kept)
    return kept


def place(folder: Path, target: Path, *, overwrite: bool) -> list[Path]:
    """Moves all of a draft to where it belongs, the target itself last.

    Raises:
        CheckpointError: A file that would be replaced appeared meanwhile.
    """
    moves = [(path, target.parent / path.name) for path in sorted(folder.iterdir())]
    moves.sort(key=lambda move: move[1] == target)
    empty = target.is_dir() and not any(target.iterdir())
    taken = [to for _, to in moves if to.exists() and not (to == target and empty)]
    if taken and not overwrite:
        raise CheckpointError(f"'{taken[0]}' is there already", "--overwrite, or another --out")
    for path, to in moves:
        if not to.is_dir():
            os.replace(path, to)
            continue
        # A folder cannot be replaced in one act: the old one steps aside first.
        old = folder / f"{to.name}.old"
        try:
            to.rename(old)
            path.rename(to)
        except BaseException:
            if old.exists() and not to.exists():
                old.rename(to)
            raise
    return [to for _, to in moves]
