"""What a run's directory tells without opening its weights: recipe, checkpoints, log, state.

Any of it may be damaged or not there yet: that is said, and the rest is told all the same.
"""

import json
import math
import os
import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cmtool import recipe as recipes
from cmtool.checkpoint import Checkpoint
from cmtool.errors import CmtoolError
from cmtool.files import why
from cmtool.meta import Meta
from cmtool.recipe import Recipe
from cmtool.workflows._rundir import LOG

RECIPE = "recipe.toml"
LARGEST_STEP = 2**53
"""Above this a float is no exact number of steps."""
LARGEST = 1e150
"""Larger values are taken as not finite, those below its inverse as 0: ratios stay finite."""
TAIL = 1 << 16
"""Bytes at a log's end in which its last line is looked for."""
ALIVE_SECONDS = 120.0
"""A run that has written nothing for this time and three of its log's intervals is taken to stand
still."""

State = Literal["finished", "running", "interrupted", "damaged"]


@dataclass(frozen=True)
class Series:
    """A logged value.

    Args:
        steps: Where it was logged, increasing.
        values: What it was there, finite.
    """

    steps: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, step: int, value: float) -> None:
        """Appends; a step that comes again begins anew there, as a resumed run does."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
        self.steps.append(step)
        self.values.append(value)


@dataclass
class Log:
    """What `log.jsonl` holds.

    Args:
        series: By name, in the order in which they appeared.
        lines: Lines that were read.
        damaged: Lines that are no record.
        endless: Values that are not finite.
    """

    series: dict[str, Series] = field(default_factory=dict)
    lines: int = 0
    damaged: int = 0
    endless: int = 0


@dataclass(frozen=True)
class Saved:
    """A checkpoint's folder.

    Args:
        path: Where it is.
        meta: Its description; None if that is damaged.
        problem: What is wrong with it.
        size: Bytes of all files in it.
        resumable: Whether training can go on from it.
    """

    path: Path
    meta: Meta | None
    problem: str | None
    size: int
    resumable: bool


@dataclass(frozen=True)
class RunFacts:
    """What a run is.

    Args:
        path: Its folder.
        state: How it stands.
        recipe: None if that cannot be read.
        meta: Of the newest checkpoint that can be read.
        step: The last one that is known of.
        changed: Time of the last change, seconds since 1970.
        problems: What is damaged.
    """

    path: Path
    state: State
    recipe: Recipe | None
    meta: Meta | None
    step: int
    changed: float
    problems: tuple[str, ...]


def is_run(path: Path) -> bool:
    """Whether a folder looks like one that `train` or `distill` wrote."""
    if not path.is_dir() or (path / "meta.json").is_file():
        return False
    begun = (path / RECIPE).is_file() and ((path / LOG).is_file() or (path / "latest").is_file())
    return begun or any(path.glob("step-????????"))


def facts_of(run: Path) -> RunFacts:
    """How a run stands; opens small files alone."""
    problems: list[str] = []
    recipe, meta = None, None
    try:
        text = (run / RECIPE).read_text(encoding="utf-8")
        recipe = recipes.parse(text, RECIPE)
    except (OSError, ValueError, CmtoolError) as problem:
        problems.append(_said(problem, f"cannot read {RECIPE}"))
    if any(run.glob("step-????????")) or (run / "latest").exists():
        try:
            meta = Checkpoint.open(run).meta
        except (OSError, ValueError, CmtoolError) as problem:
            problems.append(_said(problem, "cannot read the checkpoint"))
    last = last_record(run / LOG)
    step = max(_whole(last.get("index")), meta.step if meta else 0)
    changed = max(_time(path) for path in (run / LOG, run / "latest", run / RECIPE))
    state: State = "damaged"
    if not problems and recipe is not None:
        every = recipe.train.log_every * _number(last.get("seconds"))
        fresh = time.time() - changed < ALIVE_SECONDS + 3 * every
        saved = meta.step if meta else 0
        state = "running" if fresh else "interrupted"
        state = "finished" if saved >= recipe.train.steps else state
    return RunFacts(run, state, recipe, meta, step, changed, tuple(problems))


def last_record(path: Path) -> dict[str, Any]:
    """The last whole line of a log; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    return next((found for line in reversed(lines) if (found := _record(line))), {})


def read_log(path: Path) -> Log:
    """All of a log; what is damaged is counted."""
    log = Log()
    try:
        with path.open("rb") as file:
            for line in file:
                record = _record(line) if line.strip() else {}
                if record is None:
                    log.damaged += 1
                elif record:
                    log.lines += 1
                    _add(log, record)
    except OSError:
        log.damaged += 1
    return log


def _add(log: Log, record: dict[str, Any]) -> None:
    step = record["index"]
    for name, value in record.items():
        if name in ("index", "images") or type(value) not in (int, float):
            continue
        number = _number(value, math.nan)
        if abs(number) < LARGEST:
            small = abs(number) < 1 / LARGEST
            log.series.setdefault(name, Series()).add(step, 0.0 if small else number)
        else:
            log.endless += 1


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    index = found.get("index") if isinstance(found, dict) else None
    return found if type(index) is int and 0 <= index < LARGEST_STEP else None


def checkpoints(run: Path) -> list[Saved]:
    """Every checkpoint of a run, the oldest first."""
    found = []
    for path in sorted(run.glob("step-????????")):
        meta, problem = None, None
        try:
            meta = Checkpoint.open(path).meta
        except (OSError, ValueError, CmtoolError) as error:
            problem = _said(error, "cannot be read")
        if meta is not None:
            lost = [name for name in meta.weights if not (path / f"{name}.safetensors").is_file()]
            problem = f"lacks {', '.join(lost)}" if lost else None
        resumable = (path / "resume" / "state.pt").is_file()
        found.append(Saved(path, meta, problem, size_of(path), resumable))
    return found


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    files = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sum(file.stat().st_size for file in files if file.is_file())


def _said(problem: Exception, what: str) -> str:
    if isinstance(problem, CmtoolError):
        return " ".join(problem.message.split())
    return f"{what}: {why(problem)}" if isinstance(problem, OSError) else f"{what}: it is no text"


def _number(value: Any, otherwise: float = 0.0) -> float:
    try:
        return float(value) if type(value) in (int, float) else otherwise
    except OverflowError:  # A whole number of hundreds of digits.
        return otherwise


def _whole(value: Any) -> int:
    return value if type(value) is int else 0


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
