"""From a wish (`--steps`, `--times`, `--solver`) to noise levels and solvers, and with them to
images."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cmtool import registry
from cmtool.denoiser import Denoiser
from cmtool.errors import RecipeError
from cmtool.rng import SeedRng
from cmtool.sampling import sample_consistency, sample_ode, start_noise
from cmtool.solvers.base import Solver

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
        guidance: Weight of guidance; 1 is off.
    """

    times: Tensor
    solvers: tuple[Solver, ...]
    nfe: int
    own: bool = False
    guidance: float = 1.0

    def __str__(self) -> str:
        levels = ", ".join(f"{t:.4g}" for t in self.times[:6].tolist())
        more = f", ... {self.times[-1]:.4g}" if len(self.times) > 6 else ""
        kinds = Counter((registry.name_of("solvers", type(s)), s.order) for s in self.solvers)
        names, path = [name for name, _ in kinds], ""
        for (name, order), count in kinds.items():
            member = f" of order {order}" if names.count(name) > 1 else ""
            path += f"{count} {name} steps{member}, "
        whose = "the model's own " if self.own else ""
        path += f"guidance {self.guidance:g}, " if self.guidance != 1 else ""
        return f"NFE {self.nfe} ({path}{whose}noise levels {levels}{more})"


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
        raise RecipeError(f"--steps must be at least 1, got {steps}", "--steps 1")
    if times is not None:
        _check_times(model, times)
    if model.kind == "consistency":
        if solver is not None:
            raise RecipeError(
                f"--solver {solver} needs a diffusion model; this is a consistency model",
                "drop --solver, or pass --times",
            )
        levels = (
            consistency_times(model, steps or 1) if times is None else torch.tensor(times).double()
        )
        return Plan(levels, (), len(levels))
    return _ode_plan(model, steps, times, solver)


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


def consistency_times(model: Denoiser, steps: int) -> Tensor:
    """Default noise levels of a consistency model: the largest, then the schedule's spacing down to
    3.2 sigma_data / steps.

    Two steps re-noise to 0.8 for sigma_data 0.5, next to the 0.821 of Song & Dhariwal 2023, arXiv
    2310.14189.
    """
    schedule = model.schedule
    start = schedule.grid(1)
    if steps == 1:
        return schedule.sigma(start)
    last = max(3.2 * model.precond.sigma_data / steps, schedule.noise_range[0])
    end = schedule.from_sigma(torch.tensor(last, dtype=torch.float64))
    return schedule.sigma(schedule.between(start[0], end, steps))


def _ode_plan(
    model: Denoiser, steps: int | None, times: Sequence[float] | None, name: str | None
) -> Plan:
    euler: Solver = registry.load("solvers", "euler")()
    count = len(model.grid) - 1
    if model.grid and times is None and steps in (None, count) and name in (None, "euler"):
        levels = torch.tensor(model.grid, dtype=torch.float64)
        return Plan(levels, (euler,) * count, count, own=True)
    main: Solver = registry.load("solvers", name or "heun")()
    # The last evaluation removes the noise that is left at the end.
    nfe = steps or DIFFUSION_NFE
    if times is not None:
        levels = torch.tensor(times).double()
        solvers = (main,) * (len(levels) - 1)
        nfe = main.nfe * len(solvers) + 1
    else:
        solvers = main.path(nfe - 1, euler)
        levels = model.schedule.sigma(model.schedule.grid(len(solvers) + 1))
    return Plan(levels, tuple(solver.among(len(levels)) for solver in solvers), nfe)


def parse_times(text: str, sigma_data: float) -> list[float]:
    """`80,0.8` to noise levels; `trig:1.1` is an angle of TrigFlow, converted by sigma = sigma_data
    tan(t).

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
            raise RecipeError(
                f"--times: '{part.strip()}' is not a number", "--times 80,0.8"
            ) from None
        if kind not in ("", "trig"):
            raise RecipeError(
                f"--times: unknown kind '{kind}'", "80 is a noise level, trig:1.1 an angle"
            )
        if kind == "trig" and not 0 < value < math.pi / 2:
            raise RecipeError(
                f"--times: an angle lies between 0 and pi/2, got {value:g}", "--times trig:1.5"
            )
        levels.append(sigma_data * math.tan(value) if kind == "trig" else value)
    return levels


def _check_times(model: Denoiser, times: Sequence[float]) -> None:
    text = ",".join(f"{t:g}" for t in times)
    if not times:
        raise RecipeError("--times needs at least one noise level")
    if not all(map(math.isfinite, times)):
        raise RecipeError(f"--times must be finite numbers, got {text}", "--times 80,0.8")
    ordered = sorted(set(times), reverse=True)
    if list(times) != ordered:
        hint = "--times " + ",".join(f"{t:g}" for t in ordered)
        raise RecipeError(f"--times must decrease, got {text}", hint)
    low, high = model.schedule.noise_range
    # Levels that went through an angle and back may differ in the last digit.
    hint = "--times " + ",".join(f"{min(max(t, low), high):g}" for t in times)
    if times[0] > high * (1 + 1e-9):
        raise RecipeError(
            f"--times {times[0]:g} is above the model's largest noise level {high:g}", hint
        )
    if times[-1] < low * (1 - 1e-9):
        raise RecipeError(
            f"--times {times[-1]:g} is below the model's smallest noise level {low:g}", hint
        )


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
        (n, C, H, W) float32 images, nominally in [-1, 1], on the CPU, and their labels (n,) or
        None.
    """
    rng = SeedRng(seed, numbers, model.device)
    labels = None
    if model.num_classes:
        labels = rng.labels(model.num_classes)
        if label is not None:
            labels = torch.full_like(labels, label)
    consistency = model.kind == "consistency"
    denoise = model.bind(labels, guidance=plan.guidance, clamp=consistency)
    # MPS has no float64; elsewhere the state is kept in it, as EDM does.
    times = model.schedule.from_sigma(plan.times)
    times = times.float() if model.device.type == "mps" else times
    x = start_noise(model.schedule, rng, model.image_shape, times[0].to(model.device))
    if consistency:
        x = sample_consistency(denoise, model.schedule, x, times, rng=rng)
    else:
        x = sample_ode(
            denoise, model.schedule, plan.solvers, x, times, finish=not plan.own, rng=rng
        )
    return x.float().cpu(), None if labels is None else labels.cpu()


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
