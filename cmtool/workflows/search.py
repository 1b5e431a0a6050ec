"""`cmtool eval search`: the noise levels at which a consistency model's few steps are best."""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmtool import checkpoint, images, plots, shipped
from cmtool.denoiser import Denoiser
from cmtool.errors import CheckpointError, DataError, RecipeError, Say, Stopped, silent
from cmtool.metrics.features.catalog import open_features
from cmtool.metrics.search import Counted, Found, Times, greedy_times
from cmtool.workflows import _figures
from cmtool.workflows._draw import Plan, plan_for
from cmtool.workflows._features import Progress, gather, vault_of
from cmtool.workflows._processes import Processes
from cmtool.workflows._reference import check, measure, open_reference, reference_name
from cmtool.workflows._report import write_json
from cmtool.workflows._subjects import Opened, Subject, drawn, open_models, rules_for
from cmtool.workflows._subjects import Request as Request
from cmtool.workflows.load import pick_device

N = 10_000
"""Images of an evaluation."""


@dataclass(frozen=True)
class Wanted:
    """What to search for.

    Args:
        steps: How many levels, 2 or more; the first is the largest noise level.
        metric: What to make small: "fid", "kid", or "fd-" or "kid-" and features, by name or path.
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
        _parts(self.metric)


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
        request: Which model, which data, how many images (10,000), which seed; the rest of it does
            not matter.
        wanted: What to search for.
        say: Is told of every evaluation.
        progress: Is told (images done, images in all) of each.

    Raises:
        CmtoolError: Model or data cannot be opened, or the results not be written.
    """
    request = _with(wanted, request)
    opened = _open(request, wanted, say)
    model = opened.model.denoiser
    if wanted.save:
        checkpoint.store_times(opened.path, {})  # Fails now rather than at the end.
    out = wanted.out or Path("evals") / f"{opened.name}-search"
    figure = Figure(opened, request, say, progress)
    settings = {"metric": wanted.metric} | figure.settings
    log = _Log.open(out / "search.json", settings, overwrite=wanted.overwrite)
    if log.values:
        say(f"goes on from {len(log.values)} evaluations in {out}")
    log.write(None)  # A place that cannot be written is told now rather than after an evaluation.
    figure.begin()

    def metric(times: Times) -> float:
        value = figure(plan_for(model, times=times))
        log.add(times, value)
        say(f"{_text(times)}: {value:.4g}")
        return value

    default = tuple(map(float, opened.plans[0].times.tolist()))
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
        paths.append(checkpoint.store_times(opened.path, {wanted.steps: times}))
    return SearchReport(
        wanted.metric, values, default, found.times, times, found.spent, used, tuple(paths)
    )


def _parts(metric: str) -> tuple[str, str | None]:
    """`fd-pixel` to ("fd", "pixel"), `fid` to ("fid", None): the protocol's features.

    Raises:
        RecipeError: It is no metric that can be made small.
    """
    kind, _, features = metric.partition("-")
    if (kind in ("fd", "kid") and features) or metric in ("fid", "kid"):
        return kind, features or None
    raise RecipeError(
        f"unknown metric '{metric}'", "fid, kid, fd-pixel, fd-lite0, kid-lite0 or fd-FILE"
    )


def _with(wanted: Wanted, request: Request) -> Request:
    kind, features = _parts(wanted.metric)
    number = request.n or N
    return replace(request, metrics=(kind,), features=features, steps=str(wanted.steps), n=number)


def _open(request: Request, wanted: Wanted, say: Say) -> Opened:
    """The model; checks what can be checked without the data.

    Raises:
        CmtoolError: It cannot be opened, or no levels can be searched for it.
    """
    request.check()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RecipeError("eval search runs in one process", "start it without torchrun")
    (opened,) = open_models(request, say)
    if opened.model.denoiser.kind != "consistency":
        raise CheckpointError(
            f"{opened.model.source} is a diffusion model; this needs a consistency model",
            "make one: cmtool distill --teacher MODEL",
        )
    if wanted.save and shipped.is_name(opened.path.as_posix()):
        raise CheckpointError(
            f"'{opened.path}' comes with cmtool and stays as it is",
            f"save to a copy: cmtool export safetensors {opened.path}",
        )
    if opened.plans[0].nfe != wanted.steps:
        raise RecipeError(
            f"'{request.models[0]}' and --steps {wanted.steps} disagree", f"--model {opened.path}"
        )
    return opened


class Figure:
    """The figure of a model's images, as `eval` has it.

    Args:
        opened: The model.
        request: What is measured against what.
        say: Is told what is opened.
        progress: Is told (images done, images in all).
    """

    def __init__(self, opened: Opened, request: Request, say: Say, progress: Progress) -> None:
        self.opened, self.request, self.say, self.progress = opened, request, say, progress
        self.device = pick_device(request.device)
        self.rules = rules = rules_for(request, [opened])
        spec = request.features or rules.features
        self.extractor = open_features(spec, self.device, mode=rules.mode, say=say)
        name, shape = reference_name(request, [opened]), opened.model.denoiser.image_shape
        self.reference = open_reference(name, shape, [opened], request, say)
        for note in self.reference.notes:
            say(f"note: {note}")
        self.gaussian, self.rows = _figures.wants(request.metrics)
        check(self.reference, self.extractor, gaussian=self.gaussian, rows=self.rows)

    @property
    def settings(self) -> dict[str, Any]:
        """All that a figure depends on beside noise levels and metric, for its record."""
        record = self._subject(self.opened.plans[0]).record
        return {
            "model": record["model"],
            "weights": record["weights"],
            "sha256": record["weights_sha256"],
            "reference": {**self.reference.record, "name": self.reference.name},
            "protocol": self.rules.record(),
            "features": self.extractor.facts,
            "n": record["n"],
            "seed": record["seed"],
        }

    def begin(self) -> None:
        """Measures the reference, which may take long."""
        self.opened.model.denoiser.to(self.device)
        self.measured = measure(
            *(self.reference, self.extractor, self.rules, Processes()),
            gaussian=self.gaussian,
            rows=self.rows,
            say=self.say,
            progress=self.progress,
        )

    def __call__(self, plan: Plan) -> float:
        """The figure of images that are drawn so; their features are not kept."""
        source, metrics = self._subject(plan).source, self.request.metrics
        vault = vault_of(source, self.extractor)
        known = vault.count() == vault.n
        gather(vault, source, self.extractor, Processes(), progress=self.progress)
        found = _figures.figures(metrics, vault, self.measured, self.extractor, self.rules, 0)
        if not known:
            shutil.rmtree(vault.folder, ignore_errors=True)
        (figure,) = found.values()
        return float(figure["value"])

    def _subject(self, plan: Plan) -> Subject:
        request = self.request
        return drawn(self.opened, plan, request.seed, self.rules, request, self.device)


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
