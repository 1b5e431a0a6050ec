"""Results go to stdout, everything else to stderr; of several processes only the first speaks."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from cmtool.training import StepReport, Trainer

FIRST = os.environ.get("RANK", "0") == "0"
_out = Console(quiet=not FIRST, soft_wrap=True, highlight=False, markup=False)
_err = Console(stderr=True, quiet=not FIRST, soft_wrap=True, highlight=False, markup=False)


def result(text: str) -> None:
    """Prints a result."""
    _out.print(_harmless(text))


def say(text: str) -> None:
    """Prints a line of progress."""
    _err.print(_harmless(text))


def error(message: str, hint: str | None) -> None:
    """Prints what is wrong and what to type next."""
    _err.print(_harmless(f"error: {message}"), style="bold red")
    if hint:
        _err.print(_harmless(f"hint: {hint}"))


def _harmless(text: str) -> str:
    """A text with what steers a terminal written out: names of others' files may hold it."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


@contextmanager
def training_bar() -> Iterator[Callable[["StepReport", "Trainer"], None]]:
    """A bar with loss, images per second, time left and the curriculum's values."""
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=_err, disable=not FIRST)
    task = bar.add_task("train", total=None, facts="")
    shown, loss, seconds = 0, 0.0, 0.0

    def show(report: "StepReport", trainer: "Trainer") -> None:
        nonlocal shown, loss, seconds
        bar.start()  # Not before: a run that cannot start shows its error alone.
        # A mean of the first steps, then over about the last twenty.
        shown += 1
        new = max(0.05, 1 / shown)
        loss += new * (report.loss - loss)
        seconds += new * (report.seconds - seconds)
        rate = trainer.settings.batch_size / seconds
        levels = "".join(f" {k} {report.stats[k]:g}" for k in ("N", "mu") if k in report.stats)
        facts = f"loss {loss:.4g}  {rate:.0f} images/s {levels}"
        bar.update(task, total=trainer.settings.steps, completed=report.index, facts=facts)

    try:
        yield show
    finally:
        _stop(bar)


@contextmanager
def counting_bar(noun: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told (done, total)."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(noun), TimeRemainingColumn())
    bar = Progress(*columns, console=_err, disable=not FIRST, transient=True)
    task = bar.add_task(noun, total=None)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, total=total, completed=done)

    try:
        yield show
    finally:
        _stop(bar)


def _stop(bar: Progress) -> None:
    if bar.live.is_started:  # Otherwise `stop` would print an empty line.
        bar.stop()
