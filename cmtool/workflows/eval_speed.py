"""`cmtool eval speed`: images a second, and how long one image takes."""

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cmtool.denoiser import Denoiser
from cmtool.errors import CheckpointError, RecipeError, Say, silent
from cmtool.metrics.speed import Timing, timings
from cmtool.workflows._beyond import (
    Report,
    aligned,
    finish,
    open_one,
    open_teacher,
    record_of,
    stoppable,
    teacher_record,
)
from cmtool.workflows._draw import Plan, default_batch, draw, plan_for
from cmtool.workflows._features import Progress
from cmtool.workflows._report import Row
from cmtool.workflows._subjects import Opened
from cmtool.workflows._subjects import Request as Request
from cmtool.workflows.load import Model

STEPS = "1,2,4"


@dataclass(frozen=True)
class Wanted:
    """How it is timed.

    Args:
        teacher: To be compared with; None is the one that the model was distilled from, if it is
            there.
        repeats: Calls of each kind; the median counts.
        warm_up: Calls before them.
    """

    teacher: Path | None = None
    repeats: int = 5
    warm_up: int = 1

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            RecipeError: One is out of range.
        """
        if self.repeats < 1:
            raise RecipeError(f"--repeats must be at least 1, got {self.repeats}", "--repeats 5")
        if self.warm_up < 0:
            raise RecipeError(f"--warm-up must be 0 or more, got {self.warm_up}", "--warm-up 1")


def speed(
    request: Request,
    wanted: Wanted,
    *,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Times the drawing of images, noise and the way to the CPU included, against the teacher's.

    Args:
        request: The model, its steps, the batch size, the device, the report.
        wanted: How.
        say: Is told what is done how.
        progress: Is told (calls done, calls in all).

    Raises:
        CmtoolError: Something cannot be opened or written.
        Stopped: A signal came.
    """
    wanted.check()
    steps = request.steps or (None if request.times or "@" in "".join(request.models) else STEPS)
    opened, out = open_one(replace(request, steps=steps), say)
    model, notes = opened.model.denoiser, list[str]()
    teacher = _teacher(opened, wanted, request, say, notes)
    batch = request.batch_size or default_batch(model)
    subjects: list[tuple[str, Denoiser, Plan]] = [
        (str(opened.path), model, plan) for plan in opened.plans
    ]
    if teacher is not None:
        plan = plan_for(teacher.denoiser)
        subjects.append((f"teacher {teacher.source}", teacher.denoiser, plan))
    total = 2 * len(subjects) * (wanted.repeats + wanted.warm_up)
    with stoppable() as check:
        calls, done = list[Callable[[], object]](), [0]
        for _, denoiser, plan in subjects:
            for count in (batch, 1):

                def call(d: Denoiser = denoiser, p: Plan = plan, n: int = count) -> None:
                    draw(d, p, range(n), request.seed, watch=lambda *_: check())
                    done[0] += 1
                    progress(done[0], total)

                calls.append(call)
        times = timings(calls, wanted.repeats, wanted.warm_up)
    rows = []
    for i, (name, denoiser, plan) in enumerate(subjects):
        figures = _figures(times[2 * i], times[2 * i + 1], batch, times[-2:], teacher is not None)
        record = record_of(opened, plan, request, batch)
        if denoiser is not model and teacher is not None:
            record |= {**teacher_record(teacher), "kind": "diffusion"}
        rows.append(Row(name, record, figures))
    settings = {
        **_machine(model.device, batch, wanted),
        "teacher": None if teacher is None else teacher_record(teacher),
    }
    return finish(request, out, rows, settings, notes, _lines(rows, settings))


def _teacher(
    opened: Opened, wanted: Wanted, request: Request, say: Say, notes: list[str]
) -> Model | None:
    try:
        return open_teacher(opened, wanted.teacher, request, say)
    except CheckpointError as problem:
        if wanted.teacher is not None:
            raise
        notes.append(f"no teacher to compare with: {problem.message}")
        return None


def _figures(
    many: Timing, one: Timing, batch: int, last: list[Timing], compared: bool
) -> dict[str, dict[str, Any]]:
    """Names to figures of one row; the last row is the teacher's."""
    figures: dict[str, dict[str, Any]] = {
        "images/s": {
            "value": batch / many.median,
            "interval": [batch / many.high, batch / many.low],
            "interval_is": "quartiles",
            "higher": True,
        },
        "latency ms": {
            "value": 1000 * one.median,
            "interval": [1000 * one.low, 1000 * one.high],
            "interval_is": "quartiles",
        },
    }
    if compared:
        figures["images/s over teacher's"] = {"value": last[0].median / many.median, "higher": True}
        figures["teacher's latency over it"] = {
            "value": last[1].median / one.median,
            "higher": True,
        }
    return figures


def _machine(device: torch.device, batch: int, wanted: Wanted) -> dict[str, Any]:
    """Where and how it was timed."""
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "precision": "float32",
        "tf32": device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32,
        "batch_size": batch,
        "latency_batch_size": 1,
        "repeats": wanted.repeats,
        "warm_up": wanted.warm_up,
        "includes": "noise, network, images to the CPU",
    }


def _lines(rows: list[Row], settings: dict[str, Any]) -> list[str]:
    names = list(rows[0].figures)
    lines = aligned(
        ["images", "NFE", *names],
        [
            [r.name, str(r.nfe), *(f"{r.figures[name]['value']:.4g}" for name in names)]
            for r in rows
        ],
    )
    lines.append(
        f"{settings['device']} ({settings['device_name']}), {settings['threads']} thread(s), "
        f"{settings['precision']}, batches of {settings['batch_size']}; latency of one image; "
        f"medians of {settings['repeats']}"
    )
    return lines
