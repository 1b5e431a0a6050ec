"""Draws images from a model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cmtool.denoiser import Denoiser
from cmtool.errors import DataError, RecipeError, Say, silent
from cmtool.workflows._default import default_model
from cmtool.workflows._draw import (
    Plan,
    check_request,
    chunks,
    default_batch,
    draw,
    guided,
    image_count,
    labelled,
    plan_for,
    truncated,
)
from cmtool.workflows._engine import check_engine, on_engine
from cmtool.workflows._output import check_target, draft_of, open_draft
from cmtool.workflows._processes import processes
from cmtool.workflows._sharded import Progress, draw_sharded
from cmtool.workflows._solver import parse_solver
from cmtool.workflows._times import parse_times
from cmtool.workflows._views import (
    Pixels,
    check_picture,
    draw_pixels,
    frames_of,
    parse_variants,
    save_comparison,
    save_path,
)
from cmtool.workflows.load import Model, load, open_model, pick_device


@dataclass(frozen=True)
class Request:
    """What a user asks of `sample`.

    Args:
        n: Images 0 .. n - 1 of the seed; None is 64, or `per_label` of each class.
        steps: Network evaluations for each image.
        times: Noise levels instead, as typed, see `parse_times`.
        solver: A solver as typed, see `parse_solver`; for diffusion models.
        schedule: The spacing of the noise levels by name; None is the model's.
        gamma: A consistency model's share of fresh noise, see `sample_consistency`.
        seed: Non-negative.
        label: Classes by number or name, with commas between; for each image one of them is drawn.
        per_label: So many images of each class, class by class.
        guidance: Weight of guidance; 1 is off.
        truncation: Factor of the first noise; 1 is off.
        out: Folder, `.png` or `.npz`; None is a free folder under `samples/`.
        overwrite: Whether `out` may exist.
        batch_size: Images at a time; None suits the device.
        resume: Whether to go on with `out`, which was stopped.
        compare: Ways to draw beside each other, see `parse_variants`.
        engine: What computes the network, one of `ENGINES`.
    """

    n: int | None = None
    steps: int | None = None
    times: str | None = None
    solver: str | None = None
    schedule: str | None = None
    gamma: float = 1.0
    seed: int = 0
    label: str | None = None
    per_label: int | None = None
    guidance: float = 1.0
    truncation: float = 1.0
    out: Path | None = None
    overwrite: bool = False
    batch_size: int | None = None
    resume: bool = False
    compare: str | None = None
    engine: str = "torch"


@dataclass(frozen=True)
class SampleReport:
    """What `sample` wrote."""

    paths: tuple[Path, ...]
    plan: Plan
    images: int


def sample(
    model: str | Path | Denoiser,
    n: int,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    seed: int = 0,
    label: int | str | None = None,
    guidance: float = 1.0,
    gamma: float = 1.0,
    truncation: float = 1.0,
    solver: str | None = None,
    schedule: str | None = None,
) -> Tensor:
    """Draws images 0 .. n - 1 of a seed.

    Args:
        model: A loaded model, or what `load` takes.
        n: How many.
        steps: Network evaluations for each image; None is 1 for a consistency model and 35 for a
            diffusion model.
        times: Decreasing noise levels instead of `steps`.
        seed: Non-negative.
        label: Classes, by number or name, with commas between; for each image one of them is
            drawn, None is all.
        guidance: Weight of guidance towards the class; 1 is off.
        gamma: A consistency model's share of fresh noise between its steps; 1 is all.
        truncation: Factor of the first noise, up to 1: smaller is more typical and less varied.
        solver: A diffusion model's, by name or with fields, as in "deis:order=2"; None is Heun's.
        schedule: The spacing of the noise levels, by name; None is the model's.

    Returns:
        (n, C, H, W) float32 images in [-1, 1], on the CPU.

    Raises:
        CmtoolError: The model cannot be loaded, or not be sampled so.
    """
    denoiser = load(model) if isinstance(model, str | Path) else model
    check_request(n, seed)
    plan = plan_for(denoiser, steps, times, solver, schedule, gamma=gamma)
    plan = guided(plan, denoiser, guidance)
    plan = labelled(truncated(plan, truncation), denoiser, label)
    parts = [
        draw(denoiser, plan, numbers, seed)[0] for numbers in chunks(n, default_batch(denoiser))
    ]
    return torch.cat(parts).clamp(-1, 1)


def sample_to_files(
    path: Path | None,
    request: Request,
    *,
    weights: str = "ema",
    facts: Mapping[str, object] | None = None,
    device: str | None = None,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> SampleReport:
    """Draws images into a folder of PNG files with a grid, one grid (`.png`) or an ADM-style
    `.npz`; constant memory. Of several processes each draws its share and the first joins them.

    Args:
        path: The model; None as `default_model` has it.
        request: What to draw, and where to.
        weights: See `load`.
        facts: See `load`.
        device: See `load`.
        say: Is told what is drawn how.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: As `sample`; also if `out` exists or cannot be written.
        Stopped: A signal came; what is drawn is kept.
    """
    _check(request)
    with processes() as here:
        with here.together():
            if request.out is not None and here.first:
                check_target(request.out, overwrite=request.overwrite, resume=request.resume)
            path = path or default_model(say)
            opened = open_model(path, weights=weights, facts=facts, say=say)
            model = on_engine(opened, request.engine, here.device(pick_device(device)), say)
            plan = _plan(model, request)
            n = image_count(plan, model, request.n)
            target = request.out or _free_folder(path, plan, resume=request.resume)
            draft = open_draft(target, n, model.image_shape)
            _tell(opened, model, plan, say)
        draw_sharded(
            *(draft, here, model, plan, request.seed),
            batch_size=request.batch_size,
            resume=request.resume,
            progress=progress,
        )
    return SampleReport(draft.paths, plan, n)


def compare_to_file(
    path: Path | None,
    request: Request,
    *,
    weights: str = "ema",
    facts: Mapping[str, object] | None = None,
    device: str | None = None,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> SampleReport:
    """Draws the same seeds and classes in several ways into one picture, a row each.

    Args:
        path: The model of the variants that name none; None as in `sample_to_files`.
        request: What to draw, and how where a variant does not say; a solver and a gamma are for
            the models that take them.
        weights: See `load`.
        facts: Of models that are files, see `load`.
        device: See `load`.
        say: Is told what is drawn how.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: As `sample_to_files`; also if the models' images or classes differ.
    """
    _check_picture_request(request)
    variants = parse_variants(request.compare or "")
    if request.solver is not None:
        parse_solver(request.solver)  # Wrong even where no row takes it.
    out = request.out or _free(Path("samples", "compare.png"))
    check_picture(out, [".png"], overwrite=request.overwrite)
    rows: dict[str, Pixels] = {}
    names: list[str] = []
    shapes: dict[tuple[tuple[int, int, int], tuple[str, ...]], str] = {}
    if path is None and not all(given for given, _ in variants):
        path = default_model(say)
    for given, steps in variants:
        model_path = given or path
        assert model_path is not None
        known = None if model_path.is_dir() else facts
        opened = open_model(model_path, weights=weights, facts=known, say=say)
        model = on_engine(opened, request.engine, pick_device(device), say)
        shapes[model.image_shape, model.classes] = opened.source
        _check_comparable(shapes)
        asked = replace(request, steps=steps or request.steps, n=request.n or 8)
        unfit = {"solver": None} if model.kind == "consistency" else {"gamma": 1.0}
        plan = _plan(model, replace(asked, **unfit))
        n = image_count(plan, model, None if request.per_label else asked.n)
        _tell(opened, model, plan, say)
        row = f"{_name(model_path)}, NFE {plan.nfe}"
        row = f"{row} ({len(rows) + 1})" if row in rows else row
        rows[row], classes = draw_pixels(model, plan, n, request.seed, request.batch_size)
        progress(n * len(rows), n * len(variants))
        names = names or classes
    save_comparison(out, rows, names, request.seed)
    return SampleReport((out,), plan, n)


def path_to_file(
    path: Path | None,
    request: Request,
    *,
    weights: str = "ema",
    facts: Mapping[str, object] | None = None,
    device: str | None = None,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> SampleReport:
    """Draws the path from noise to images, as a GIF or as a strip (`.png`): at each noise level the
    noisy image and the network's estimate.

    Args:
        path: As in `sample_to_files`.
        request: What to draw, and where to.
        weights: See `load`.
        facts: See `load`.
        device: See `load`.
        say: Is told what is drawn how.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: As `sample_to_files`.
    """
    _check_picture_request(request)
    path = path or default_model(say)
    out = request.out or _free(Path("samples", f"{_name(path)}-path.gif"))
    check_picture(out, [".gif", ".png"], overwrite=request.overwrite)
    opened = open_model(path, weights=weights, facts=facts, say=say)
    model = on_engine(opened, request.engine, pick_device(device), say)
    plan = _plan(model, request)
    n = image_count(plan, model, None if request.per_label else request.n or 4)
    _tell(opened, model, plan, say)
    save_path(out, frames_of(model, plan, n, request.seed, request.batch_size))
    progress(n, n)
    return SampleReport((out,), plan, n)


def _tell(opened: Model, model: Denoiser, plan: Plan, say: Say) -> None:
    say(f"{model.kind} model {opened.source}: {plan}")
    if model.kind == "diffusion" and plan.nfe == 1 and not plan.own:
        say(
            "note: one evaluation of a diffusion model gives the mean of all images; "
            "--steps 18 or more, or distil it"
        )


def _check(request: Request) -> None:
    check_request(1 if request.n is None else request.n, request.seed)
    check_engine(request.engine)
    if request.batch_size is not None and request.batch_size < 1:
        raise RecipeError(
            f"--batch-size must be at least 1, got {request.batch_size}", "leave it out"
        )


def _check_picture_request(request: Request) -> None:
    _check(request)
    if request.resume:
        raise RecipeError("--resume is for many images, not for one picture", "drop --resume")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise RecipeError("this picture is drawn by one process", "run cmtool alone")


def _check_comparable(shapes: Mapping[tuple[tuple[int, int, int], tuple[str, ...]], str]) -> None:
    """A model without classes fits beside one with."""
    if len({shape for shape, _ in shapes}) > 1:
        told = ", ".join(f"{x}: {'x'.join(map(str, shape))}" for (shape, _), x in shapes.items())
        raise RecipeError(f"--compare: the models' images differ: {told} (CxHxW)")
    if len({classes for _, classes in shapes if classes}) > 1:
        told = ", ".join(f"{x}: {len(classes)}" for (_, classes), x in shapes.items() if classes)
        raise RecipeError(f"--compare: the models' classes differ: {told}")


def _plan(model: Denoiser, request: Request) -> Plan:
    times = None if request.times is None else parse_times(request.times, model.precond.sigma_data)
    plan = plan_for(
        model, request.steps, times, request.solver, request.schedule, gamma=request.gamma
    )
    plan = truncated(guided(plan, model, request.guidance), request.truncation)
    return labelled(plan, model, request.label, request.per_label)


def _free_folder(path: Path, plan: Plan, *, resume: bool) -> Path:
    """The first folder that is free; to resume, the last that was begun.

    Raises:
        DataError: None was.
    """
    base = Path("samples") / f"{_name(path)}-nfe{plan.nfe}"
    if not resume:
        return _free(base)
    begun, number = None, 1
    while (folder := _numbered(base, number)).exists() or draft_of(folder).exists():
        begun = folder if draft_of(folder).exists() else begun
        number += 1
    if begun is None:
        raise DataError(f"nothing to resume for '{base}'", "drop --resume to begin")
    return begun


def _free(base: Path) -> Path:
    """The first of base, base-2, ... that is neither there nor begun."""
    number = 1
    while (path := _numbered(base, number)).exists() or draft_of(path).exists():
        number += 1
    return path


def _numbered(base: Path, number: int) -> Path:
    if number == 1:
        return base
    suffix = base.suffix if base.suffix in (".png", ".gif") else ""
    return base.with_name(f"{base.name.removesuffix(suffix)}-{number}{suffix}")


def _name(path: Path) -> str:
    """What to call a model in a picture or a file's name."""
    return path.resolve().name if path.is_dir() else path.stem
