"""Draws images from a model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmtool import images, registry
from cmtool.denoiser import Denoiser
from cmtool.errors import CheckpointError, RecipeError
from cmtool.rng import SeedRng
from cmtool.sampling import sample_consistency, sample_ode, start_noise
from cmtool.solvers.base import Solver
from cmtool.workflows._output import open_writer
from cmtool.workflows.load import Say, load, open_model, pick_device, silent

DIFFUSION_NFE = 35
"""Network evaluations for a diffusion model unless told otherwise: Heun on 18 levels, as EDM for CIFAR-10."""


@dataclass(frozen=True)
class Plan:
    """How every image is drawn.

    Args:
        times: Decreasing noise levels, (n,) float64.
        solvers: One for each interval of a diffusion model's path; empty for a consistency model.
        nfe: Network evaluations for each image.
    """

    times: Tensor
    solvers: tuple[Solver, ...]
    nfe: int

    def __str__(self) -> str:
        levels = ", ".join(f"{t:.4g}" for t in self.times[:6].tolist())
        more = f", ... {self.times[-1]:.4g}" if len(self.times) > 6 else ""
        kinds = {name: 0 for name in (type(s).__name__.lower() for s in self.solvers)}
        for solver in self.solvers:
            kinds[type(solver).__name__.lower()] += 1
        path = "".join(f"{count} {name} steps, " for name, count in kinds.items())
        return f"NFE {self.nfe} ({path}noise levels {levels}{more})"


@dataclass(frozen=True)
class SampleReport:
    """What `sample` wrote."""

    paths: tuple[Path, ...]
    plan: Plan
    images: int


def plan_for(
    model: Denoiser,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    solver: str | None = None,
) -> Plan:
    """Chooses noise levels and solvers so that `steps` is the number of network evaluations.

    Raises:
        RecipeError: The wishes contradict each other or the model.
    """
    if steps is not None and times is not None:
        raise RecipeError("--steps and --times exclude each other", "--times alone says how many")
    if steps is not None and steps < 1:
        raise RecipeError(f"--steps must be at least 1, got {steps}")
    if times is not None:
        _check_times(model, times)
    if model.kind == "consistency":
        if solver is not None:
            raise RecipeError(
                f"--solver {solver} needs a diffusion model; this is a consistency model",
                "drop --solver, or pass --times",
            )
        levels = consistency_times(model, steps or 1) if times is None else torch.tensor(times).double()
        return Plan(levels, (), len(levels))
    return _ode_plan(model, steps, times, solver or "heun")


def consistency_times(model: Denoiser, steps: int) -> Tensor:
    """Default noise levels of a consistency model: t_max, then the schedule's spacing down to 3.2 sigma_data / steps.

    Two steps re-noise to 0.8 for sigma_data 0.5, next to the 0.821 of Song & Dhariwal 2023, arXiv 2310.14189.
    """
    if steps == 1:
        return model.schedule.grid(1)
    last = torch.tensor(3.2 * model.precond.sigma_data / steps, dtype=torch.float64)
    low = torch.tensor(model.schedule.t_min, dtype=torch.float64)
    start = model.schedule.grid(1)[0]
    return model.schedule.between(start, torch.maximum(last, low), steps)


def _ode_plan(
    model: Denoiser, steps: int | None, times: Sequence[float] | None, name: str
) -> Plan:
    main: Solver = registry.load("solvers", name)()
    euler: Solver = registry.load("solvers", "euler")()
    if times is not None:
        solvers = (main,) * (len(times) - 1)
        return Plan(torch.tensor(times).double(), solvers, main.nfe * len(solvers) + 1)
    nfe = steps or DIFFUSION_NFE
    # One evaluation removes the noise that is left at the end; what the solver cannot use exactly goes to Euler steps.
    full, rest = divmod(nfe - 1, main.nfe)
    solvers = (main,) * full + (euler,) * rest
    return Plan(model.schedule.grid(len(solvers) + 1), solvers, nfe)


def parse_times(text: str, sigma_data: float) -> list[float]:
    """`80,0.8` to noise levels; `trig:1.1` is an angle of TrigFlow, converted by sigma = sigma_data tan(t).

    Raises:
        RecipeError: Something in it is no number.

    Example:
        >>> [round(t, 4) for t in parse_times("80,trig:1.1", 0.5)]
        [80.0, 0.9824]
    """
    levels = []
    for part in text.split(","):
        kind, _, number = part.strip().rpartition(":")
        try:
            value = float(number)
        except ValueError:
            raise RecipeError(f"--times: '{part.strip()}' is not a number", "--times 80,0.8") from None
        if kind not in ("", "trig"):
            raise RecipeError(f"--times: unknown kind '{kind}'", "80 is a noise level, trig:1.1 an angle")
        if kind == "trig" and not 0 < value < math.pi / 2:
            raise RecipeError(f"--times: an angle lies between 0 and pi/2, got {value:g}")
        levels.append(sigma_data * math.tan(value) if kind == "trig" else value)
    return levels


def _check_times(model: Denoiser, times: Sequence[float]) -> None:
    text = ",".join(f"{t:g}" for t in times)
    if not times:
        raise RecipeError("--times needs at least one noise level")
    if any(not np.isfinite(t) for t in times):
        raise RecipeError(f"--times must be finite numbers, got {text}")
    ordered = sorted(set(times), reverse=True)
    if list(times) != ordered:
        hint = "--times " + ",".join(f"{t:g}" for t in ordered)
        raise RecipeError(f"--times must decrease, got {text}", hint)
    low, high = model.schedule.span
    if times[0] > high:
        raise RecipeError(f"--times {times[0]:g} is above the model's largest noise level {high:g}")
    if times[-1] < low:
        raise RecipeError(f"--times {times[-1]:g} is below the model's smallest noise level {low:g}")


def draw(
    model: Denoiser, plan: Plan, numbers: Sequence[int], seed: int, label: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Draws the images with the given numbers.

    Args:
        model: On its device.
        plan: How.
        numbers: Image i depends on (model, plan, seed, i, label) alone.
        seed: Non-negative.
        label: Their class; None draws one for each from (seed, i).

    Returns:
        (n, C, H, W) float32 images, nominally in [-1, 1], on the CPU, and their labels (n,) or None.
    """
    rng = SeedRng(seed, numbers, model.device)
    labels = None
    if model.num_classes:
        labels = rng.labels(model.num_classes)
        if label is not None:
            labels = torch.full_like(labels, label)
    consistency = model.kind == "consistency"
    denoise = model.bind(labels, clamp=consistency)
    # MPS has no float64; elsewhere the state is kept in it, as EDM does.
    times = plan.times.float() if model.device.type == "mps" else plan.times
    x = start_noise(model.schedule, rng, model.image_shape, times[0].to(model.device))
    if consistency:
        x = sample_consistency(denoise, model.schedule, x, times, rng=rng)
    else:
        x = sample_ode(denoise, model.schedule, plan.solvers, x, times)
    return x.float().cpu(), None if labels is None else labels.cpu()


def sample(
    model: str | Path | Denoiser,
    n: int,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    seed: int = 0,
    label: int | str | None = None,
) -> Tensor:
    """Draws images 0 .. n - 1 of a seed.

    Args:
        model: A loaded model, or what `load` takes.
        n: How many.
        steps: Network evaluations for each image; None is 1 for a consistency model and 35 for a diffusion model.
        times: Decreasing noise levels instead of `steps`.
        seed: Non-negative.
        label: A class, by number or name; None draws one for each image.

    Returns:
        (n, C, H, W) float32 images in [-1, 1], on the CPU.

    Raises:
        CmtoolError: The model cannot be loaded, or not be sampled so.
    """
    denoiser = load(model) if isinstance(model, str | Path) else model
    _check_request(n, seed)
    plan = plan_for(denoiser, steps, times)
    chosen = pick_label(denoiser, label)
    parts = [
        draw(denoiser, plan, numbers, seed, chosen)[0]
        for numbers in chunks(n, default_batch(denoiser))
    ]
    return torch.cat(parts).clamp(-1, 1)


def sample_to_files(
    path: Path,
    *,
    n: int,
    steps: int | None = None,
    times: str | None = None,
    solver: str | None = None,
    seed: int = 0,
    label: str | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    weights: str = "ema",
    device: str | None = None,
    batch_size: int | None = None,
    facts: dict[str, object] | None = None,
    say: Say = silent,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SampleReport:
    """Draws images into a folder of PNG files with a grid, one grid (`.png`) or an ADM-style `.npz`; constant memory.

    Args:
        path: The model.
        times: As typed, see `parse_times`.
        out: Folder, `.png` or `.npz`; None is a free folder under `samples/`.
        overwrite: Whether `out` may exist.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: As `sample`; also if `out` exists or cannot be written.
    """
    _check_request(n, seed)
    opened = open_model(path, weights=weights, facts=facts, say=say)
    model = opened.denoiser.to(pick_device(device))
    levels = None if times is None else parse_times(times, model.precond.sigma_data)
    plan = plan_for(model, steps, levels, solver)
    chosen = pick_label(model, label)
    if batch_size is not None and batch_size < 1:
        raise RecipeError(f"--batch-size must be at least 1, got {batch_size}")
    target = out or _free_folder(path, plan)
    if target.exists() and not overwrite:
        raise CheckpointError(f"'{target}' is there already", "--overwrite, or another --out")
    say(f"{model.kind} model {opened.source}: {plan}")
    batches = chunks(n, batch_size or default_batch(model))
    with open_writer(target, n, model.image_shape) as writer:
        for numbers in batches:
            x, labels = draw(model, plan, numbers, seed, chosen)
            pixels = images.to_uint8(x).permute(0, 2, 3, 1).numpy()
            writer.write(pixels, None if labels is None else labels.numpy())
            progress(numbers.stop, n)
    return SampleReport(writer.paths, plan, n)


def pick_label(model: Denoiser, label: int | str | None) -> int | None:
    """A class by number or name.

    Raises:
        CmtoolError: The model has no such class.
    """
    if label is None:
        return None
    if not model.classes:
        raise RecipeError(f"--label {label}: the model is unconditional", "drop --label")
    if str(label) in model.classes:
        return model.classes.index(str(label))
    if str(label).lstrip("-").isdigit() and 0 <= int(label) < model.num_classes:
        return int(label)
    names = ", ".join(model.classes[:20])
    raise RecipeError(f"--label {label}: no such class", f"0 .. {model.num_classes - 1} or {names}")


def default_batch(model: Denoiser) -> int:
    """Images for one call of the network: about 2^18 numbers on a CPU, 2^22 elsewhere."""
    budget = 2**18 if model.device.type == "cpu" else 2**22
    return max(1, min(1024, budget // int(np.prod(model.image_shape))))


def chunks(n: int, size: int) -> list[range]:
    """0 .. n - 1 in runs of at most `size`."""
    return [range(i, min(i + size, n)) for i in range(0, n, size)]


def _check_request(n: int, seed: int) -> None:
    if n < 1:
        raise RecipeError(f"--n must be at least 1, got {n}")
    if seed < 0:
        raise RecipeError(f"--seed must not be negative, got {seed}")


def _free_folder(path: Path, plan: Plan) -> Path:
    name = path.resolve().name if path.is_dir() else path.stem
    base = Path("samples") / f"{name}-nfe{plan.nfe}"
    free, number = base, 2
    while free.exists():
        free, number = base.with_name(f"{base.name}-{number}"), number + 1
    return free
