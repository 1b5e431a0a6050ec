"""From a wish (`--steps`, `--times`, `--solver`) to noise levels and solvers, and with them to
images."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cmtool import registry
from cmtool.denoiser import Denoiser
from cmtool.errors import CheckpointError, RecipeError, did_you_mean
from cmtool.rng import SeedRng
from cmtool.sampling import sample_consistency, sample_ode, start_noise
from cmtool.schedules.base import Schedule
from cmtool.solvers.base import Solver
from cmtool.tensors import Denoise
from cmtool.workflows._solver import parse_solver, typed
from cmtool.workflows._times import check_times
from cmtool.workflows._times import parse_times as parse_times

DIFFUSION_NFE = 35
"""Evaluations for a diffusion model unless told otherwise: Heun on 18 levels, EDM for CIFAR-10."""


@dataclass(frozen=True)
class Plan:
    """How every image is drawn.

    Args:
        times: Decreasing noise levels, (n,) float64.
        solvers: One for each interval of a diffusion model's path; empty for a consistency model.
        nfe: Network evaluations for each image; both of classifier-free guidance count.
        own: Whether these are the model's own levels, at whose end there is nothing to remove.
        stored: Whether they are those that are stored with a consistency model.
        schedule: The frame of the path; None is the model's.
        guidance: Weight of guidance; 1 is off.
        gamma: See `cmtool.sampling.sample_consistency`.
        truncation: Factor of the first noise.
        labels: The classes to draw from; empty is all of the model's.
        per_label: So many images of each in turn; None draws one of them for each image.
    """

    times: Tensor
    solvers: tuple[Solver, ...]
    nfe: int
    own: bool = False
    stored: bool = False
    schedule: Schedule | None = None
    guidance: float = 1.0
    gamma: float = 1.0
    truncation: float = 1.0
    labels: tuple[int, ...] = ()
    per_label: int | None = None

    def __str__(self) -> str:
        levels = ", ".join(f"{t:.4g}" for t in self.times[:6].tolist())
        more = f", ... {self.times[-1]:.4g}" if len(self.times) > 6 else ""
        kinds = Counter((typed(s), s.order) for s in self.solvers)
        names, path = [name for name, _ in kinds], ""
        for (name, order), count in kinds.items():
            member = f" of order {order}" if names.count(name) > 1 else ""
            path += f"{count} {name} steps{member}, "
        whose = "the model's own " if self.own else "the model's stored " if self.stored else ""
        for name in ("guidance", "gamma", "truncation"):
            value = getattr(self, name)
            path += f"{name} {value:g}, " if value != 1 else ""
        if self.schedule is not None:
            path += f"schedule {registry.name_of('schedules', type(self.schedule))}, "
        return f"NFE {self.nfe} ({path}{whose}noise levels {levels}{more})"


def plan_for(
    model: Denoiser,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    solver: str | None = None,
    schedule: str | None = None,
    gamma: float = 1.0,
) -> Plan:
    """Chooses noise levels and solvers so that `steps` is the number of network evaluations.

    Args:
        model: What to draw from.
        steps: Network evaluations for each image.
        times: Noise levels instead.
        solver: A solver, see `parse_solver`; for diffusion models.
        schedule: The spacing of the noise levels and the frame of the path, by name; None is the
            model's.
        gamma: See `cmtool.sampling.sample_consistency`.

    Raises:
        RecipeError: The wishes contradict each other or the model.
    """
    _check_wish(model, steps, times)
    if not 0 <= gamma <= 1:
        raise RecipeError(f"--gamma must lie between 0 and 1, got {gamma:g}", "--gamma 0.5")
    frame = None if schedule is None else _frame(model, schedule)
    if model.kind == "diffusion":
        if gamma != 1:
            raise RecipeError(
                f"--gamma {gamma:g} needs a consistency model; this is a diffusion model",
                "drop --gamma",
            )
        return replace(_ode_plan(model, frame, steps, times, solver), schedule=frame)
    if solver is not None:
        raise RecipeError(
            f"--solver {solver} needs a diffusion model; this is a consistency model",
            "drop --solver, or pass --times",
        )
    stored = frame is None and times is None and (steps or 1) in model.times
    if stored:
        times = model.times[steps or 1]
    levels = (
        consistency_times(model, steps or 1, frame)
        if times is None
        else torch.tensor(times, dtype=torch.float64)
    )
    return Plan(levels, (), len(levels), stored=stored, schedule=frame, gamma=gamma)


def _frame(model: Denoiser, name: str) -> Schedule:
    """A schedule by name, with the model's range of noise levels.

    Raises:
        RecipeError: There is none of that name.
    """
    cls = registry.load("schedules", name)
    own = model.schedule
    if type(own) is cls:
        return own
    low, high = own.noise_range
    known = {"sigma_min": low, "sigma_max": high, "sigma_data": model.precond.sigma_data}
    names = {field.name for field in dataclasses.fields(cls)}
    frame: Schedule = cls(**{key: value for key, value in known.items() if key in names})
    return frame


def truncated(plan: Plan, truncation: float) -> Plan:
    """The plan with its first noise scaled down.

    Raises:
        RecipeError: It is no such factor.
    """
    if not 0 < truncation <= 1:
        raise RecipeError(
            f"--truncation must be above 0 and at most 1, got {truncation:g}", "--truncation 0.8"
        )
    return replace(plan, truncation=truncation)


def labelled(
    plan: Plan, model: Denoiser, label: int | str | None, per_label: int | None = None
) -> Plan:
    """The plan with the classes to draw: one or several by number or name, with commas between.

    Raises:
        RecipeError: The model has no such classes.
    """
    if per_label is not None and not model.classes:
        raise RecipeError(
            f"--per-label {per_label}: the model knows no classes", f"--n {per_label}"
        )
    if per_label is not None and per_label < 1:
        raise RecipeError(f"--per-label must be at least 1, got {per_label}", "--per-label 8")
    if label is None:
        return replace(plan, per_label=per_label)
    if not model.classes:
        raise RecipeError(f"--label '{label}': the model knows no classes", "drop --label")
    whole = str(label) in model.classes
    words = [str(label)] if whole else [word.strip() for word in str(label).split(",")]
    labels = tuple(_class(model, word) for word in words)
    if len(set(labels)) < len(labels):
        once = ",".join(model.classes[i] for i in dict.fromkeys(labels))
        raise RecipeError(f"--label '{label}' names a class twice", f"--label {once}")
    return replace(plan, labels=labels, per_label=per_label)


def image_count(plan: Plan, model: Denoiser, n: int | None) -> int:
    """How many images are asked for: `n`, else so many of each class, else 64.

    Raises:
        RecipeError: Both are given.
    """
    if plan.per_label is None:
        return 64 if n is None else n
    if n is not None:
        raise RecipeError(
            f"--n {n} and --per-label {plan.per_label} exclude each other", "drop --n"
        )
    return plan.per_label * (len(plan.labels) or model.num_classes)


def _class(model: Denoiser, word: str) -> int:
    if word in model.classes:
        return model.classes.index(word)
    numbers = [str(i) for i in range(model.num_classes)]
    if word in numbers:
        return int(word)
    guess, names = "", ""
    if list(model.classes) != numbers:
        guess = did_you_mean(word, model.classes)
        names = f" or a name: {', '.join(model.classes[:20])}"
    raise RecipeError(
        f"the model has no class '{word}'{guess}", f"--label 0 .. {model.num_classes - 1}{names}"
    )


def guided(plan: Plan, model: Denoiser, guidance: float) -> Plan:
    """The plan with a weight of guidance; classifier-free, it takes twice the evaluations.

    Raises:
        RecipeError: The model was not trained for that weight.
    """
    if guidance == 1 and (model.guidable is None or not model.guidable[2]):
        return plan
    if model.guidable is None:
        reason, hint = "the model knows no classes", "drop --guidance"
        if model.classes and model.kind == "consistency":
            reason = "this consistency model takes no weight of guidance"
            hint = "distil one that does: --set teacher.guidance=[1,3]"
        elif model.classes:
            reason = "the model was never trained without classes (data.label_dropout = 0)"
            hint = "drop --guidance, or train with --set data.label_dropout=0.1"
        raise RecipeError(f"--guidance {guidance:g}: {reason}", hint)
    low, high, as_input = model.guidable
    if not (low <= guidance <= high and math.isfinite(guidance)):
        nearest = min(max(guidance, low), high) if math.isfinite(guidance) else low
        raise RecipeError(
            f"--guidance {guidance:g} is outside {low:g} .. {high:g}, which the model knows",
            f"--guidance {nearest:g}",
        )
    return replace(plan, guidance=guidance, nfe=plan.nfe if as_input else 2 * plan.nfe)


def consistency_times(model: Denoiser, steps: int, frame: Schedule | None = None) -> Tensor:
    """Default noise levels of a consistency model: the largest, then the spacing of `frame`, or of
    its own schedule, down to 3.2 sigma_data / steps.

    Two steps re-noise to 0.8 for sigma_data 0.5, next to the 0.821 of Song & Dhariwal 2023, arXiv
    2310.14189.
    """
    schedule = frame or model.schedule
    start = schedule.grid(1)
    if steps == 1:
        return schedule.sigma(start)
    low, high = schedule.noise_range
    last = max(min(3.2 * model.precond.sigma_data, high) / steps, low)
    end = schedule.from_sigma(torch.tensor(last, dtype=torch.float64))
    return schedule.sigma(schedule.between(start[0], end, steps))


def edit_levels(
    model: Denoiser,
    editor: str,
    default: int,
    steps: int | None = None,
    times: Sequence[float] | None = None,
) -> Tensor:
    """Noise levels for an editor, (n,) float64: those asked for, else those that the model stores
    under its name, else `default` of them.

    Raises:
        RecipeError: The wishes contradict each other or the model.
    """
    _check_wish(model, steps, times)
    chosen = times or (model.times.get(editor) if steps is None else None)
    if chosen is None:
        return consistency_times(model, steps or default)
    return torch.tensor(chosen, dtype=torch.float64)


def _check_wish(model: Denoiser, steps: int | None, times: Sequence[float] | None) -> None:
    if steps is not None and times is not None:
        raise RecipeError("--steps and --times exclude each other", "--times alone says how many")
    if steps is not None and steps < 1:
        raise RecipeError(f"--steps must be at least 1, got {steps}", "--steps 1")
    if times is not None:
        check_times(model, times)


def _ode_plan(
    model: Denoiser,
    frame: Schedule | None,
    steps: int | None,
    times: Sequence[float] | None,
    name: str | None,
) -> Plan:
    euler: Solver = registry.load("solvers", "euler")()
    count = len(model.grid) - 1
    as_made = frame is None and times is None and steps in (None, count)
    if model.grid and as_made and name in (None, "euler"):
        levels = torch.tensor(model.grid, dtype=torch.float64)
        return Plan(levels, (euler,) * count, count, own=True)
    main = parse_solver(name or "heun")
    # The last evaluation removes the noise that is left at the end.
    nfe = steps or DIFFUSION_NFE
    if times is not None:
        levels = torch.tensor(times, dtype=torch.float64)
        solvers = (main,) * (len(levels) - 1)
        nfe = main.nfe * len(solvers) + 1
    else:
        solvers = main.path(nfe - 1, euler)
        schedule = frame or model.schedule
        levels = schedule.sigma(schedule.grid(len(solvers) + 1))
    return Plan(levels, tuple(solver.among(len(levels)) for solver in solvers), nfe)


Watch = Callable[[Tensor, Tensor, Tensor], None]
"""Is told of every evaluation: images plus noise (B, C, H, W), its level (B,), the estimate."""


def draw(
    model: Denoiser,
    plan: Plan,
    numbers: Sequence[int],
    seed: int,
    *,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Draws the images with the given numbers.

    Args:
        model: On its device.
        plan: How.
        numbers: Image i depends on (model, plan, seed, i) alone.
        seed: Non-negative.
        watch: Is told of every evaluation on the way; what it raises ends the drawing.

    Returns:
        (n, C, H, W) float32 images, nominally in [-1, 1], on the CPU, and their labels (n,) or
        None.

    Raises:
        CheckpointError: The images are not finite: the weights are broken.
    """
    rng = SeedRng(seed, numbers, model.device)
    labels = _labels(model, plan, numbers, rng)
    consistency = model.kind == "consistency"
    schedule = plan.schedule or model.schedule
    denoise = model.bind(labels, schedule=schedule, guidance=plan.guidance, clamp=consistency)
    denoise = denoise if watch is None else _watched(denoise, schedule, watch)
    # MPS has no float64; elsewhere the state is kept in it, as EDM does.
    times = schedule.from_sigma(plan.times)
    times = times.float() if model.device.type == "mps" else times
    x = start_noise(schedule, rng, model.image_shape, times[0].to(model.device))
    x = plan.truncation * x
    if consistency:
        x = sample_consistency(denoise, schedule, x, times, rng=rng, gamma=plan.gamma)
    else:
        x = sample_ode(denoise, schedule, plan.solvers, x, times, finish=not plan.own, rng=rng)
    if not (x := x.float().cpu()).isfinite().all():
        raise CheckpointError("the model's images are not finite", "use an earlier checkpoint")
    return x, None if labels is None else labels.cpu()


def _watched(denoise: Denoise, schedule: Schedule, watch: Watch) -> Denoise:
    def told(x: Tensor, t: Tensor) -> Tensor:
        x0_hat = denoise(x, t)
        watch(*schedule.to_edm(x, t), x0_hat)
        return x0_hat

    return told


def _labels(model: Denoiser, plan: Plan, numbers: Sequence[int], rng: SeedRng) -> Tensor | None:
    if not model.num_classes:
        return None
    choices = torch.tensor(plan.labels or range(model.num_classes), device=model.device)
    if plan.per_label is None:
        return choices[rng.labels(len(choices))]
    turn = torch.tensor([i // plan.per_label for i in numbers], device=model.device)
    return choices[turn % len(choices)]


def default_batch(model: Denoiser) -> int:
    """Images for one call of the network: about 2^18 numbers on a CPU, 2^22 elsewhere."""
    budget = 2**18 if model.device.type == "cpu" else 2**22
    return max(1, min(1024, budget // math.prod(model.image_shape)))


def chunks(n: int, size: int) -> list[range]:
    """0 .. n - 1 in runs of at most `size`."""
    return [range(i, min(i + size, n)) for i in range(0, n, size)]


def check_request(n: int, seed: int) -> None:
    """Checks which images are asked for.

    Raises:
        RecipeError: None are, or the seed is out of its range.
    """
    if n < 1:
        raise RecipeError(f"--n must be at least 1, got {n}", "--n 64")
    if not 0 <= seed < 2**63:
        raise RecipeError(f"--seed must be 0 or more and below 2^63, got {seed}", "--seed 0")
