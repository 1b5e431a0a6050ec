"""Draws images from a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cmtool import images
from cmtool.denoiser import Denoiser
from cmtool.errors import RecipeError, Say, did_you_mean, silent
from cmtool.workflows._draw import (
    Plan,
    check_request,
    chunks,
    default_batch,
    draw,
    guided,
    parse_times,
    plan_for,
)
from cmtool.workflows._output import check_target, open_writer
from cmtool.workflows.load import load, newest_run, open_model, pick_device


@dataclass(frozen=True)
class Request:
    """What a user asks of `sample`.

    Args:
        n: Images 0 .. n - 1 of the seed.
        steps: Network evaluations for each image.
        times: Noise levels instead, as typed, see `parse_times`.
        solver: A solver by name, for diffusion models.
        seed: Non-negative.
        label: A class by number or name; None draws one for each image.
        guidance: Weight of guidance; 1 is off.
        out: Folder, `.png` or `.npz`; None is a free folder under `samples/`.
        overwrite: Whether `out` may exist.
        batch_size: Images at a time; None suits the device.
    """

    n: int = 64
    steps: int | None = None
    times: str | None = None
    solver: str | None = None
    seed: int = 0
    label: str | None = None
    guidance: float = 1.0
    out: Path | None = None
    overwrite: bool = False
    batch_size: int | None = None


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
) -> Tensor:
    """Draws images 0 .. n - 1 of a seed.

    Args:
        model: A loaded model, or what `load` takes.
        n: How many.
        steps: Network evaluations for each image; None is 1 for a consistency model and 35 for a
            diffusion model.
        times: Decreasing noise levels instead of `steps`.
        seed: Non-negative.
        label: A class, by number or name; None draws one for each image.
        guidance: Weight of guidance towards the class; 1 is off.

    Returns:
        (n, C, H, W) float32 images in [-1, 1], on the CPU.

    Raises:
        CmtoolError: The model cannot be loaded, or not be sampled so.
    """
    denoiser = load(model) if isinstance(model, str | Path) else model
    check_request(n, seed)
    plan = guided(plan_for(denoiser, steps, times), denoiser, guidance)
    chosen = pick_label(denoiser, label)
    parts = [
        draw(denoiser, plan, numbers, seed, chosen)[0]
        for numbers in chunks(n, default_batch(denoiser))
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SampleReport:
    """Draws images into a folder of PNG files with a grid, one grid (`.png`) or an ADM-style
    `.npz`; constant memory.

    Args:
        path: The model; None is the newest finished consistency model under `runs`.
        request: What to draw, and where to.
        weights: See `load`.
        facts: See `load`.
        device: See `load`.
        say: Is told what is drawn how.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: As `sample`; also if `out` exists or cannot be written.
    """
    check_request(request.n, request.seed)
    if request.batch_size is not None and request.batch_size < 1:
        raise RecipeError(
            f"--batch-size must be at least 1, got {request.batch_size}", "leave it out"
        )
    if request.out is not None:
        check_target(request.out, overwrite=request.overwrite)
    path = path or newest_run(Path("runs"), "consistency", say)
    opened = open_model(path, weights=weights, facts=facts, say=say)
    model = opened.denoiser.to(pick_device(device))
    times = None if request.times is None else parse_times(request.times, model.precond.sigma_data)
    plan = plan_for(model, request.steps, times, request.solver)
    plan = guided(plan, model, request.guidance)
    chosen = pick_label(model, request.label)
    target = request.out or _free_folder(path, plan)
    say(f"{model.kind} model {opened.source}: {plan}")
    batches = chunks(request.n, request.batch_size or default_batch(model))
    with open_writer(target, request.n, model.image_shape) as writer:
        for numbers in batches:
            x, labels = draw(model, plan, numbers, request.seed, chosen)
            pixels = images.to_uint8(x).permute(0, 2, 3, 1).numpy()
            writer.write(pixels, None if labels is None else labels.numpy())
            progress(numbers.stop, request.n)
    return SampleReport(writer.paths, plan, request.n)


def pick_label(model: Denoiser, label: int | str | None) -> int | None:
    """A class by number or name.

    Raises:
        CmtoolError: The model has no such class.
    """
    if label is None:
        return None
    if not model.classes:
        raise RecipeError(f"--label '{label}': the model knows no classes", "drop --label")
    if str(label) in model.classes:
        return model.classes.index(str(label))
    numbers = [str(i) for i in range(model.num_classes)]
    if str(label) in numbers:
        return int(label)
    guess, names = "", ""
    if list(model.classes) != numbers:
        guess = did_you_mean(str(label), model.classes)
        names = f" or a name: {', '.join(model.classes[:20])}"
    raise RecipeError(
        f"the model has no class '{label}'{guess}", f"--label 0 .. {model.num_classes - 1}{names}"
    )


def _free_folder(path: Path, plan: Plan) -> Path:
    name = path.resolve().name if path.is_dir() else path.stem
    base = Path("samples") / f"{name}-nfe{plan.nfe}"
    free, number = base, 2
    while free.exists():
        free, number = base.with_name(f"{base.name}-{number}"), number + 1
    return free
