"""`cmtool eval search`: the noise levels at which a consistency model's few steps are best."""

import json
import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmtool import checkpoint, images, plots
from cmtool.denoiser import Denoiser
from cmtool.errors import DataError, RecipeError, Say, Stopped, silent
from cmtool.metrics.search import Counted, Found, Times, greedy_times
from cmtool.workflows._draw import plan_for
from cmtool.workflows._evaluate import (
    FrechetDistance,
    Progress,
    check_metric,
    open_subject,
    write_json,
)
from cmtool.workflows._evaluate import Request as Request


@dataclass(frozen=True)
class Wanted:
    """What to search for.

    Args:
        steps: How many levels, 2 or more; the first is the largest noise level.
        metric: What to make small, a name in METRICS.
        tol: Tolerance in ln(level): 0.05 is a level to about 5 %.
        budget: Most evaluations in this call; None is any number.
        save: Write the levels into the model.
        out: Folder of search.json and search.png; None is evals/MODEL-search.
        overwrite: Forget a search in `out` that had other settings.
    """

    steps: int = 2
    metric: str = "fd-pixel"
    tol: float = 0.05
    budget: int | None = None
    save: bool = False
    out: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise RecipeError(
                f"--steps must be at least 2, got {self.steps}: one step begins at the largest "
                "noise level",
                "--steps 2",
            )
        if self.budget is not None and self.budget < 1:
            raise RecipeError(f"--budget must be at least 1, got {self.budget}", "leave it out")
        if not 0.001 <= self.tol <= 1:
            raise RecipeError(f"--tol must be in 0.001 .. 1, got {self.tol:g}", "--tol 0.05")
        check_metric(self.metric)


@dataclass(frozen=True)
class SearchReport:
    """What was found.

    Args:
        metric: Its name.
        values: All evaluations: decreasing noise levels to the metric's value.
        default: The levels that the model took before.
        found: The search's own levels; fewer than asked for if it could not go on.
        times: The better of `default` and `found`.
        spent: Whether the budget ended the search.
        used: New evaluations in this call.
        paths: The files written, and with `save` the model.
    """

    metric: str
    values: dict[Times, float]
    default: Times
    found: Times
    times: Times
    spent: bool
    used: int
    paths: tuple[Path, ...]

    def notes(self) -> list[str]:
        """What the table does not say."""
        lines = [f"{self.used} new evaluations"]
        if self.spent:
            lines.append("the budget was spent before the end; the same command goes on")
        elif len(self.found) < len(self.default):
            lines.append(f"no room for a level below {self.found[-1]:g}")
        if self.times == self.default:
            lines.append("the default is at least as good as what was found")
        return lines

    def table(self) -> str:
        """All evaluations along the way to `found`, and what came out."""
        rows = sorted(self.values.items(), key=lambda row: (len(row[0]), *map(_minus, row[0])))
        marks = {self.default: "the default", self.times: "the best"}
        if self.times == self.default:
            marks = {self.default: "the default, and the best"}
        width = max(len(_text(times)) for times in self.values)
        lines = [f"{'noise levels':{width}}  {self.metric}"]
        for times, value in rows:
            lines.append(f"{_text(times):{width}}  {value:<9.4g} {marks.get(times, '')}".rstrip())
        return "\n".join(lines)


def search(
    request: Request,
    wanted: Wanted,
    *,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> SearchReport:
    """Searches noise levels one after another, see `greedy_times`; every evaluation draws the same
    noise and is kept on the disk, so that a search that was stopped goes on.

    Args:
        request: Which model, which data, how many images.
        wanted: What to search for.
        say: Is told of every evaluation.
        progress: Is told (images done, images in all) of each.

    Raises:
        CmtoolError: Model or data cannot be opened, or the results not be written.
    """
    subject = open_subject(request, say, "consistency")
    model = subject.denoiser
    if wanted.save:
        checkpoint.store_times(subject.path, {})  # Fails now rather than at the end.
    name = subject.path.resolve().name if subject.path.is_dir() else subject.path.stem
    out = wanted.out or Path("evals") / f"{name}-search"
    settings = {"metric": wanted.metric} | subject.settings()
    log = _Log.open(out / "search.json", settings, overwrite=wanted.overwrite)
    if log.values:
        say(f"goes on from {len(log.values)} evaluations in {out}")
    distance = FrechetDistance(subject, wanted.metric.removeprefix("fd-"), progress)
    log.write(None)  # A place that cannot be written is told now rather than after an evaluation.

    def metric(times: Times) -> float:
        value = distance(plan_for(model, times=times))
        log.add(times, value)
        say(f"{_text(times)}: {value:.4g}")
        return value

    default = tuple(map(float, plan_for(model, wanted.steps).times.tolist()))
    try:
        found, used = _ask(metric, model, default, wanted, log.values)
    except KeyboardInterrupt:
        raise Stopped(
            f"stopped; {len(log.values)} evaluations are kept in {out}",
            "the same command goes on",
            signal.SIGINT,
        ) from None
    values, whole = log.values, len(found.times) == wanted.steps
    times = found.times if whole and values[found.times] < values[default] else default
    result = {"times": times, "value": values[times], "default": default, "found": found.times}
    log.write(result | {"spent": found.spent, "used": used, "tolerance": wanted.tol})
    images.save_png(out / "search.png", _picture(settings, values, found.times, default))
    paths = [log.path, out / "search.png"]
    if wanted.save:
        paths.append(checkpoint.store_times(subject.path, {wanted.steps: times}))
    return SearchReport(
        wanted.metric, values, default, found.times, times, found.spent, used, tuple(paths)
    )


def _ask(
    metric: Callable[[Times], float],
    model: Denoiser,
    default: Times,
    wanted: Wanted,
    known: Mapping[Times, float],
) -> tuple[Found, int]:
    """Evaluates the default and searches; what was found, and the new evaluations of both."""
    first = Counted(metric, known, wanted.budget)
    first(default)
    found = greedy_times(
        metric,
        default[0],
        model.schedule.noise_range[0],
        wanted.steps,
        tol=wanted.tol,
        known=first.values,
        budget=None if wanted.budget is None else wanted.budget - first.used,
    )
    return found, first.used + found.used


def _minus(level: float) -> float:
    return -level


def _text(times: Times) -> str:
    return ", ".join(f"{t:.4g}" for t in times)


def _picture(
    settings: dict[str, Any], values: dict[Times, float], found: Times, default: Times
) -> images.Pixels:
    """A curve for each level over those that were tried for it, the earlier ones as they are."""
    lines = []
    for count in range(1, len(found)):
        tried = sorted((t[-1], v) for t, v in values.items() if t[:-1] == found[:count])
        fixed = _text(found[:count])
        lines.append(plots.Line(f"{fixed}, x", [t for t, _ in tried], [v for _, v in tried]))
    mark = plots.Line(f"default {_text(default)}", [default[-1]], [values[default]], mark=True)
    return plots.line_plot(
        [*lines, mark],
        title=f"{settings['metric']}, {settings['n']:,} images, seed {settings['seed']}",
        x_label="noise level x",
        y_label=str(settings["metric"]),
        log_x=True,
    )


class _Log:
    """Evaluations on the disk, written anew after each."""

    def __init__(self, path: Path, settings: dict[str, Any], values: dict[Times, float]) -> None:
        self.path = path
        self.settings = settings
        self.values = values

    @classmethod
    def open(cls, path: Path, settings: dict[str, Any], *, overwrite: bool) -> "_Log":
        """What an earlier call left, if it left something."""
        if overwrite or not path.is_file():
            return cls(path, settings, {})
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            theirs = dict(content["settings"])
            rows = [(row["times"], float(row["value"])) for row in content["evaluations"]]
            values = {tuple(map(float, times)): value for times, value in rows}
            if not all(map(math.isfinite, values.values())):
                raise ValueError("a value is not finite")
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise DataError(
                f"'{path}' is damaged: {problem}", "--overwrite, or another --out"
            ) from None
        # A path may be written in several ways; the weights' hash says which model it was.
        for key in [k for k in settings if k != "model"]:
            if theirs.get(key) != settings[key]:
                raise DataError(
                    f"'{path}' holds a search with another {key}: {theirs.get(key)}",
                    "--overwrite, or another --out",
                )
        return cls(path, settings, values)

    def add(self, times: Times, value: float) -> None:
        self.values[times] = value
        self.write(None)

    def write(self, result: dict[str, Any] | None) -> None:
        rows = [{"times": times, "value": value} for times, value in self.values.items()]
        content = {"settings": self.settings, "evaluations": rows, "result": result}
        write_json(self.path, content)
