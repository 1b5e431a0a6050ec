"""`cmtool eval consistency`: does a consistency model follow its teacher's trajectories?"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cmtool import images, plots
from cmtool.data.base import ImageSet
from cmtool.errors import RecipeError, Say, silent
from cmtool.metrics.diversity import PairMean
from cmtool.metrics.lpips import Lpips, missing_lpips, open_lpips
from cmtool.metrics.self_consistency import Noisy, self_consistency
from cmtool.rng import SeedRng
from cmtool.sampling import start_noise
from cmtool.solvers.heun import Heun
from cmtool.teacher import Teacher
from cmtool.tensors import Batch, rms
from cmtool.workflows._beyond import (
    Report,
    aligned,
    cell,
    classes_of,
    finish,
    open_one,
    open_teacher,
    own_images,
    record_of,
    stoppable,
    teacher_record,
)
from cmtool.workflows._draw import Plan, chunks, default_batch, draw, guided
from cmtool.workflows._features import Progress
from cmtool.workflows._report import Row
from cmtool.workflows._subjects import Opened
from cmtool.workflows._subjects import Request as Request
from cmtool.workflows.load import Model

N = 256


@dataclass(frozen=True)
class Wanted:
    """How it is measured.

    Args:
        teacher: A diffusion model; None is the one that the model was distilled from.
        bins: Parts of the noise levels, even in the schedule's coordinate.
        teacher_steps: Heun steps of the teacher from the largest level to the smallest.
        start: Where the bins' trajectories begin: at the teacher's own from pure "noise", or at
            "data" plus noise, as in training.
    """

    teacher: Path | None = None
    bins: int = 8
    teacher_steps: int = 40
    start: Literal["noise", "data"] = "noise"

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            RecipeError: One is out of range.
        """
        if self.bins < 1:
            raise RecipeError(f"--bins must be at least 1, got {self.bins}", "--bins 8")
        if self.teacher_steps < 2 * self.bins:
            raise RecipeError(
                f"--teacher-steps must be at least 2 a bin, got {self.teacher_steps} for "
                f"{self.bins}",
                f"--teacher-steps {5 * self.bins}",
            )

    @property
    def each(self) -> int:
        """Teacher's steps in a bin, an even number."""
        return 2 * round(self.teacher_steps / self.bins / 2)


@dataclass(frozen=True)
class _Job:
    """All that a batch needs."""

    opened: Opened
    teacher: Model
    wanted: Wanted
    seed: int
    guidance: float
    plans: tuple[Plan, ...]
    edges: Tensor
    lpips: Lpips | None
    data: ImageSet | None
    check: Callable[[], None]
    others: PairMean = field(default_factory=PairMean)


def consistency(
    request: Request,
    wanted: Wanted,
    *,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Measures the self-consistency error in each bin of noise levels, and how far the images are
    from the teacher's of the same noise.

    Args:
        request: The model, its steps, n, seed, and where the report goes.
        wanted: How.
        say: Is told what is done how.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: Something cannot be opened, compared or written.
        Stopped: A signal came.
    """
    wanted.check()
    opened, out = open_one(request, say, "consistency")
    model, n = opened.model.denoiser, request.n or N
    teacher = open_teacher(opened, wanted.teacher, request, say)
    weight = opened.model.recipe.teacher.guidance
    guidance = weight[0] if isinstance(weight, tuple) else weight
    as_input = model.guidable is not None and model.guidable.as_input
    plans = tuple(guided(plan, model, guidance) if as_input else plan for plan in opened.plans)
    data, notes = None, []
    if wanted.start == "data":
        _, data = own_images(opened, request, say)
        if model.num_classes:
            classes_of(data, opened)
    told = missing_lpips()
    lpips = None if told else open_lpips(model.device)
    notes += [told] if told else []
    edges = model.schedule.grid(wanted.bins + 1)
    edges = edges.float() if model.device.type == "mps" else edges
    size = request.batch_size or default_batch(model)
    parts: list[dict[str, Tensor]] = []
    with stoppable() as check:
        job = _Job(
            opened, teacher, wanted, request.seed, guidance, plans, edges, lpips, data, check
        )
        for numbers in chunks(n, size):
            parts.append(_batch(job, numbers))
            progress(numbers.stop, n)
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return _report(request, job, found, out, notes)


def _batch(job: _Job, numbers: range) -> dict[str, Tensor]:
    """Figures of each image of a batch, (B, ...), by name."""
    model, teacher = job.opened.model.denoiser, job.teacher.denoiser
    schedule, edges = model.schedule, job.edges
    rng = SeedRng(job.seed, numbers, model.device)
    label = rng.labels(model.num_classes) if model.num_classes else None
    x = start_noise(schedule, rng, model.image_shape, edges[0].to(model.device))
    as_input = model.guidable is not None and model.guidable.as_input
    weight = job.guidance if as_input else 1.0

    def run(x: Tensor, label: Tensor | None, steps: int, noisy: Noisy | None = None) -> Any:
        ode = Teacher(schedule, Heun(), teacher, job.guidance, steps)
        f = model.bind(label, guidance=weight)

        def step(x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
            job.check()
            return ode.step(x_t, t, r, Batch(x_t, label if teacher.num_classes else None))

        return self_consistency(f, step, edges, x, noisy)

    errors, end = run(x, label, job.wanted.each)
    _, rough = run(x, label, job.wanted.each // 2)
    found = {"solver": rms(rough - end)}
    if job.data is not None:
        errors, _ = run(*_from_data(job, numbers, rng))
    found["errors"] = errors.T
    theirs = end.clamp(-1, 1).float()
    job.others.add(theirs.flatten(1).cpu())
    for i, plan in enumerate(job.plans):
        ours, _ = draw(model, plan, numbers, job.seed)
        ours = ours.to(theirs).clamp(-1, 1)
        found[f"rms{i}"] = rms(ours - theirs)
        if job.lpips is not None:
            found[f"lpips{i}"] = job.lpips.distance(ours, theirs)
    return {name: value.double().cpu() for name, value in found.items()}


def _from_data(job: _Job, numbers: range, rng: SeedRng) -> tuple[Tensor, Tensor | None, int, Noisy]:
    """Training images plus noise: at the first edge, their labels, and anew at any edge."""
    data, model = job.data, job.opened.model.denoiser
    assert data is not None
    chosen = SeedRng(job.seed, numbers).labels(len(data)).numpy()
    x0 = images.from_uint8(torch.from_numpy(data.images(chosen))).to(model.device)
    label = None
    if model.num_classes and data.labels is not None:
        label = torch.from_numpy(data.labels[chosen]).to(model.device)

    def noisy(t: Tensor) -> Tensor:
        return model.schedule.perturb(x0.to(t), rng.randn(model.image_shape).to(t), t)

    first = job.edges[0].to(model.device).expand(len(x0))
    return noisy(first), label, job.wanted.each, noisy


def _mean(values: Tensor) -> dict[str, float]:
    """Mean over images and its standard error."""
    figure = {"value": float(values.mean())}
    return figure | ({"error": float(values.std() / len(values) ** 0.5)} if len(values) > 1 else {})


def _report(
    request: Request, job: _Job, found: dict[str, Tensor], out: Path, notes: list[str]
) -> Report:
    wanted, n = job.wanted, len(found["solver"])
    sigma = job.opened.model.denoiser.schedule.sigma(job.edges).tolist()
    bins = [
        {"from": high, "to": low, "figures": {"self-consistency": _mean(column)}}
        for high, low, column in zip(sigma[:-1], sigma[1:], found["errors"].T, strict=True)
    ]
    rows = []
    for i, plan in enumerate(job.plans):
        figures = {"rms to teacher": _mean(found[f"rms{i}"])}
        if job.lpips is not None:
            figures["LPIPS to teacher"] = _mean(found[f"lpips{i}"])
        record = record_of(job.opened, plan, request, n)
        rows.append(Row(str(job.opened.path), record, figures))
    solver = _mean(found["solver"])
    width = math.prod(job.opened.model.denoiser.image_shape)
    others = {"value": (job.others.value() / width) ** 0.5}
    settings = {
        "teacher": {**teacher_record(job.teacher), "solver": "heun", "guidance": job.guidance,
                    "steps": wanted.each * wanted.bins},
        "start": wanted.start,
        "bins": bins,
        "solver_error": solver,
        "teacher_to_teacher": others,
        "lpips": None if job.lpips is None else job.lpips.facts,
    }  # fmt: skip
    noisy = "its own trajectories" if wanted.start == "noise" else "data plus noise"
    head = ["noise level", "", f"|f(x_t) - f(x_r)| along the teacher, from {noisy}"]
    lines = aligned(
        head,
        [[f"{b['from']:.4g}", f"to {b['to']:.4g}", cell(b["figures"]["self-consistency"])]
         for b in bins],
    )  # fmt: skip
    names = list(rows[0].figures)
    lines += ["", *aligned(
        ["images", "NFE", "n", *names],
        [[r.name, str(r.nfe), f"{n:,}", *(cell(r.figures[name]) for name in names)] for r in rows],
    )]  # fmt: skip
    lines += [
        f"the teacher's images of different noise: rms {cell(others)}",
        f"solver: with half the steps the teacher's images are another rms {cell(solver)}",
    ]
    plot = plots.line_plot(
        [plots.Line("", [b["from"] for b in bins],
                    [b["figures"]["self-consistency"]["value"] for b in bins])],
        title=f"self-consistency error, {n:,} images",
        x_label="noise level at the bin's upper edge",
        y_label="rms",
        log_x=True,
    )  # fmt: skip
    return finish(request, out, rows, settings, notes, lines, {"": np.asarray(plot)})
