"""What the evaluations beyond one distance share: one model, its teacher, a report."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cmtool import images
from cmtool.data.base import ImageSet, Labels
from cmtool.denoiser import Kind
from cmtool.errors import CheckpointError, CmtoolError, DataError, RecipeError, Say, Stopped
from cmtool.images import Pixels
from cmtool.metrics.features.base import Extractor, Vectors
from cmtool.signals import Signals
from cmtool.workflows._draw import Plan
from cmtool.workflows._features import Progress, Source, gather, vault_of
from cmtool.workflows._processes import Processes
from cmtool.workflows._reference import Reference, open_reference, reference_name
from cmtool.workflows._report import Row, content_of, place_for, write_json
from cmtool.workflows._sharded import identity
from cmtool.workflows._subjects import Opened, Request, open_models
from cmtool.workflows.load import Model, open_model, pick_device


@dataclass(frozen=True)
class Report:
    """What was measured.

    Args:
        content: All of it as plain data.
        table: For a terminal.
        paths: The files written.
    """

    content: dict[str, Any]
    table: str
    paths: tuple[Path, ...]


def open_one(request: Request, say: Say, kind: Kind | None = None) -> tuple[Opened, Path]:
    """The model, on its device, and where the report goes; checks what can be checked first.

    Raises:
        CmtoolError: The model cannot be opened, is not of the kind, or the report has no place.
    """
    request.check()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RecipeError(
            f"eval {request.command} runs in one process", "start it without torchrun"
        )
    (opened,) = open_models(request, say)
    model = opened.model
    if kind is not None and model.denoiser.kind != kind:
        raise CheckpointError(
            f"{model.source} is a {model.denoiser.kind} model; this needs a {kind} model",
            "make one: cmtool distill --teacher MODEL",
        )
    out = place_for(request.out, opened.name, request.command, overwrite=request.overwrite)
    model.denoiser.to(pick_device(request.device))
    return opened, out


def open_teacher(opened: Opened, given: Path | None, request: Request, say: Say) -> Model:
    """The teacher that is given, else the one that the model was distilled from, on the model's
    device.

    Raises:
        CheckpointError: There is none, or it is no teacher of this model.
    """
    student = opened.model
    recorded = student.meta.origin.get("teacher")
    if given is None and not isinstance(recorded, str):
        raise CheckpointError(
            f"{student.source} does not tell which teacher it has", "--teacher MODEL"
        )
    path = Path(str(recorded)) if given is None else given
    # Else a run that was moved away would be looked for on the hub, whose names look alike.
    if given is None and path.name.startswith("step-") and not path.is_dir():
        raise CheckpointError(
            f"the teacher of {student.source} is no longer at '{path}'", "--teacher MODEL"
        )
    facts = {} if path.is_dir() else request.facts
    size = student.denoiser.image_shape[1]
    try:
        teacher = open_model(path, facts=facts, image_size=size, say=say)
    except CmtoolError as problem:
        if given is not None:
            raise
        raise CheckpointError(
            f"the teacher of {student.source} cannot be opened: {problem.message}",
            "--teacher MODEL",
        ) from None
    theirs, ours = teacher.denoiser, student.denoiser
    if theirs.kind != "diffusion":
        raise CheckpointError(
            f"{teacher.source} is a consistency model; a teacher must be a diffusion model",
            "--teacher MODEL",
        )
    if theirs.image_shape != ours.image_shape or theirs.num_classes not in (0, ours.num_classes):
        shapes = ("x".join(map(str, d.image_shape)) for d in (theirs, ours))
        told = ", ".join(
            f"{shape}, {d.num_classes} classes"
            for shape, d in zip(shapes, (theirs, ours), strict=True)
        )
        raise CheckpointError(f"teacher and model differ: {told}", "--teacher MODEL")
    say(f"teacher {teacher.source}")
    theirs.to(ours.device)
    return teacher


def own_images(opened: Opened, request: Request, say: Say) -> tuple[Reference, ImageSet]:
    """The images that `--data` names, else the model's training set.

    Raises:
        CmtoolError: They cannot be opened, or are statistics alone.
    """
    name = reference_name(request, [opened])
    shape = opened.model.denoiser.image_shape
    found = open_reference(name, shape, [opened], request, say)
    if found.data is None:
        raise DataError(
            f"'{name}' holds statistics alone; eval {request.command} needs images",
            "--data NAME|FOLDER|ZIP|NPZ of images",
        )
    return found, found.data


def classes_of(data: ImageSet, opened: Opened) -> Labels:
    """The labels of a set whose classes are the model's.

    Raises:
        DataError: They are not.
    """
    count = opened.model.denoiser.num_classes
    if data.labels is None or data.num_classes != count:
        raise DataError(
            f"'{data.name}' has {data.num_classes or 'no'} classes, the model has {count}",
            "--data with the model's classes",
        )
    return data.labels


def features_of(source: Source, extractor: Extractor, say: Say, progress: Progress) -> Vectors:
    """The features of all images of a source (n, width), computed in this process."""
    vault = vault_of(source, extractor)
    gather(vault, source, extractor, Processes(), say=say, progress=progress)
    return vault.rows()


def record_of(opened: Opened, plan: Plan, request: Request, n: int) -> dict[str, Any]:
    """What was drawn how, for a row."""
    facts = identity(opened.model.denoiser, plan, request.seed, n)
    return {
        "model": str(opened.path),
        "kind": opened.model.denoiser.kind,
        "weights": request.weights,
        "weights_sha256": facts["weights"],
        "plan": str(plan),
        "nfe": plan.nfe,
        "times": plan.times.tolist(),
        "seed": request.seed,
        "n": n,
    }


def teacher_record(teacher: Model) -> dict[str, Any]:
    """Which teacher, for a report."""
    network = identity(teacher.denoiser, Plan(torch.zeros(1), (), 0), 0, 0)
    return {"model": teacher.source, "weights_sha256": network["weights"]}


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Gives a function to be called now and then, which ends the work after a signal.

    Raises:
        Stopped: A signal came.
    """
    with Signals() as signals:

        def check() -> None:
            if signals.caught:
                again = "the same command begins again"
                raise Stopped("stopped; nothing is written", again, signals.caught)

        yield check


def aligned(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *body]
    ]


def cell(figure: Mapping[str, Any]) -> str:
    """A figure with its standard error, if it has one."""
    text = f"{figure['value']:.4g}"
    return f"{text} ± {figure['error']:.2g}" if "error" in figure else text


def finish(
    request: Request,
    out: Path,
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    notes: Sequence[str],
    lines: Sequence[str],
    pictures: Mapping[str, Pixels] | None = None,
) -> Report:
    """Writes the report.

    Args:
        request: What was asked.
        out: The JSON file.
        rows: Figures.
        settings: What else is known, by name.
        notes: What a reader must know.
        lines: The table for a terminal; the notes come below it.
        pictures: By what stands in their names after the report's.
    """
    content = content_of(request.command, rows, settings, notes)
    write_json(out, content)
    paths = [out]
    for name, pixels in (pictures or {}).items():
        paths.append(out.with_name(f"{out.stem}{name}.png"))
        images.save_png(paths[-1], pixels)
    table = "\n".join([*lines, *(f"note: {note}" for note in content["notes"])])
    return Report(content, table, tuple(paths))
