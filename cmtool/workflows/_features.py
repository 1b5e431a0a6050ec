"""Features of many images, by several processes, kept on the disk as they come.

One folder for each set of images and feature network, named by all that the features depend on:

    entry.json                   what that is
    features.f32                 n rows of d numbers, float32
    probabilities.f32            n rows of K numbers, where they were asked for
    00000000-00001024.done       sha256 of a block's rows; written last
    statistics-1.npz             of a reference: mean, covariance and its root

A block counts once its mark is there and fits its rows, so whatever ends a process costs one block,
and damage is mended by computing the block again. Blocks and portions depend on an image's number
alone: any number of processes makes the same bytes.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmtool.data.places import cache_dir
from cmtool.errors import DataError, Say, Stopped, silent
from cmtool.files import whole, why
from cmtool.metrics.features.base import Extractor, Vectors
from cmtool.metrics.frechet import Gaussian, Running
from cmtool.signals import Signals
from cmtool.workflows._output import Draft, Labels, Pixels
from cmtool.workflows._processes import Processes

Progress = Callable[[int, int], None]
Check = Callable[[], None]
"""Raises if the work is to stop."""

BLOCK = 1024
"""Images of one mark, and fewest rows of one update of a covariance."""
VERSION = 2


@dataclass(frozen=True)
class Source:
    """Images 0 .. n - 1.

    Args:
        name: What to call them.
        n: How many.
        shape: (C, H, W).
        facts: All that decides them, as plain data.
        read: Their numbers -> (B, C, H, W) and labels (B,) or None; calls now and then what it is
            given, which raises when it is to stop.
    """

    name: str
    n: int
    shape: tuple[int, int, int]
    facts: Mapping[str, Any]
    read: Callable[[range, Check], tuple[Pixels, Labels | None]] = field(repr=False)


@dataclass(frozen=True)
class Vault:
    """The folder of one set of features.

    Args:
        folder: Named by the key.
        n: Images.
        widths: Numbers of a row in each file: "features" and perhaps "probabilities".
        facts: All that the rows depend on.
    """

    folder: Path
    n: int
    widths: Mapping[str, int]
    facts: Mapping[str, Any]

    def begin(self) -> None:
        """Makes the folder, and takes away marks whose rows are damaged.

        Raises:
            DataError: It cannot be written.
        """
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(dict(self.facts), indent=1, default=str)
            (self.folder / "entry.json").write_text(text, encoding="utf-8")
            self._stop.unlink(missing_ok=True)
            for mark in self.folder.glob("*.done"):
                if not self._fits(mark):
                    mark.unlink()

    def missing(
        self, rank: int = 0, world: int = 1, also: Sequence[range] | None = None
    ) -> list[range]:
        """One process's share of the blocks that are not here; with `also`, or not there."""
        blocks = [range(i, min(i + BLOCK, self.n)) for i in range(0, self.n, BLOCK)]
        known = [b for b in blocks if self._mark(b).is_file() and (also is None or b in also)]
        return [block for block in blocks[rank::world] if block not in known]

    def count(self) -> int:
        """Images whose features are here."""
        return self.n - sum(map(len, self.missing()))

    def write(self, block: range, rows: Mapping[str, Vectors]) -> None:
        """Keeps a block's rows.

        Raises:
            DataError: They cannot be written.
        """
        with self._writing():
            for name, width in self.widths.items():
                content = np.ascontiguousarray(rows[name], np.float32).tobytes()
                _write_at(self._file(name), block.start * width * 4, memoryview(content))
            with whole(self._mark(block)) as draft:
                draft.write_text(self._hash(block), encoding="ascii")

    def rows(self, name: str = "features") -> Vectors:
        """All rows (n, width), read from the disk when they are looked at."""
        shape = (self.n, self.widths[name])
        return np.memmap(self._file(name), np.float32, "r", shape=shape)

    def moments(self, ddof: int = 1) -> Gaussian:
        """Mean and covariance of the features; one block is in memory at a time."""
        return _joined(self._parts("features"), ddof)

    def _parts(self, name: str) -> Iterator[Vectors]:
        width = self.widths[name]
        for start in range(0, self.n, BLOCK):
            count = min(BLOCK, self.n - start) * width
            found = np.fromfile(self._file(name), np.float32, count, offset=start * width * 4)
            yield found.reshape(-1, width)

    def stop(self) -> None:
        """Asks the other processes to stop."""
        if self.folder.is_dir():
            self._stop.touch()

    @property
    def stopped(self) -> bool:
        """Whether a process asked for it."""
        return self._stop.exists()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise DataError(
                f"cannot write features to '{self.folder}': {why(problem)}",
                "free space, or set CMTOOL_CACHE to a folder elsewhere; the same command goes on",
            ) from None

    @property
    def _stop(self) -> Path:
        return self.folder / "stop"

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.f32"

    def _mark(self, block: range) -> Path:
        return self.folder / f"{block.start:08d}-{block.stop:08d}.done"

    def _fits(self, mark: Path) -> bool:
        try:
            start, stop = map(int, mark.stem.split("-"))
            return mark.read_text(encoding="ascii") == self._hash(range(start, stop))
        except (OSError, ValueError):
            return False

    def _hash(self, block: range) -> str:
        found = hashlib.sha256()
        for name, width in sorted(self.widths.items()):
            with self._file(name).open("rb") as file:
                file.seek(block.start * width * 4)
                found.update(file.read(len(block) * width * 4))
        return found.hexdigest()


def _write_at(path: Path, at: int, content: memoryview) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        os.lseek(file, at, os.SEEK_SET)
        while content:  # A full disk takes a part, then refuses.
            content = content[os.write(file, content) :]
    finally:
        os.close(file)


def moments(rows: Vectors, ddof: int = 1) -> Gaussian:
    """Mean and covariance of rows (n, d), block by block in their order."""
    return _joined((rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)), ddof)


def _joined(parts: Iterable[Vectors], ddof: int) -> Gaussian:
    running = Running()
    for part in parts:
        running.add(part)
    return running.moments(ddof)


def vault_of(source: Source, extractor: Extractor, *, probabilities: bool = False) -> Vault:
    """Where the features of a source are kept."""
    width = extractor.dim or math.prod(source.shape)
    widths = {"features": width} | ({"probabilities": extractor.classes} if probabilities else {})
    # Apart: both tell the hash of their "weights".
    facts = {
        "images": dict(source.facts),
        "features": dict(extractor.facts),
        "n": source.n,
        "widths": widths,
        "cache": VERSION,
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return Vault(cache_dir() / "features" / key, source.n, widths, facts)


def gather(
    vault: Vault,
    source: Source,
    extractor: Extractor,
    here: Processes,
    *,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
    draft: Draft | None = None,
) -> None:
    """Fills a vault with what is missing; all processes call this.

    Args:
        vault: See `vault_of`.
        source: The images.
        extractor: The network.
        here: The processes.
        say: Is told how long it will take.
        progress: Is told (images done, images in all).
        draft: Takes the images too.

    Raises:
        Stopped: A signal came; what is done is kept.
        CmtoolError: One of the processes cannot go on; what is done is kept.
    """
    with here.together():
        if here.first:
            vault.begin()
    with here.together():
        _Share(vault, source, extractor, draft).fill(here, say, progress)


@dataclass
class _Share:
    """One process's part of the work."""

    vault: Vault
    source: Source
    extractor: Extractor
    draft: Draft | None
    signum: int = 0

    def fill(self, here: Processes, say: Say, progress: Progress) -> None:
        """Computes the blocks that are missing."""
        drawn = None if self.draft is None else self.draft.drawn()
        n = self.source.n
        blocks = self.vault.missing(here.rank, here.world, drawn)
        clock = _Clock(sum(map(len, blocks)) * here.world, self.source.name, say)
        with Signals() as signals:

            def check() -> None:
                if signals.caught:
                    told = f"stopped; {self.vault.count():,} of {n:,} images are kept"
                    raise Stopped(told, "the same command goes on", signals.caught)

            def tick(done: int) -> None:
                clock.tick(done * here.world)
                progress(n - max(clock.left, 0), n)

            try:
                for block in blocks:
                    if self.vault.stopped:  # Another process has failed and will say why.
                        return
                    self._block(block, check, tick)
            except BaseException:
                self.vault.stop()
                raise

    def _block(self, block: range, check: Check, tick: Callable[[int], None]) -> None:
        device, names = self.extractor.device.type, list(self.vault.widths)
        portion, batch = (256, 32) if device == "cpu" else (BLOCK, 256)
        rows: dict[str, list[Vectors]] = {name: [] for name in names}
        seen = []
        for start in range(block.start, block.stop, portion):
            numbers = range(start, min(start + portion, block.stop))
            pixels, labels = self.source.read(numbers, check)
            seen.append((pixels, labels))
            for first in range(0, len(pixels), batch):
                check()
                found = self.extractor(
                    pixels[first : first + batch], probabilities="probabilities" in rows
                )
                for name in names:
                    rows[name].append(getattr(found, name))
            tick(len(numbers))
        whole = {name: np.concatenate(parts) for name, parts in rows.items()}
        if not all(np.isfinite(part).all() for part in whole.values()):
            raise DataError(f"features of {self.source.name} are not finite numbers")
        self.vault.write(block, whole)
        if self.draft is not None:
            pixels = np.concatenate([pixels for pixels, _ in seen]).transpose(0, 2, 3, 1)
            kept = [labels for _, labels in seen if labels is not None]
            self.draft.write(block, pixels, np.concatenate(kept) if kept else None)


class _Clock:
    """Tells once, after the first portions, how long all will take."""

    def __init__(self, total: int, name: str, say: Say) -> None:
        self.total, self.left, self.name, self.say = total, total, name, say
        self.began: float | None = None
        self.told = False

    def tick(self, done: int) -> None:
        """So many more images are done."""
        self.left -= done
        now = time.monotonic()
        if self.began is None:  # The first portion also warms up.
            self.began = now
        elif not self.told:
            seconds = (now - self.began) / done * self.left
            self.told = True
            if seconds >= 10:
                self.say(f"{self.name}: about {_time(seconds)} for {self.left:,} more images")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
