"""What `cmtool eval` measures: images that are drawn from a model, or that lie somewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmtool import __version__
from cmtool.data.base import ImageSet
from cmtool.data.names import names
from cmtool.denoiser import Denoiser
from cmtool.errors import DataError, RecipeError, Say
from cmtool.metrics.protocols import FULL, Protocol, protocol, protocol_for
from cmtool.workflows._default import default_model
from cmtool.workflows._draw import Plan, check_request, default_batch, draw, guided, plan_for
from cmtool.workflows._features import Check, Source
from cmtool.workflows._output import Labels, Pixels
from cmtool.workflows._sharded import identity
from cmtool.workflows._times import parse_times
from cmtool.workflows.load import Model, open_model


@dataclass(frozen=True)
class Request:
    """What a user asks of `eval`.

    Args:
        metrics: "fid", "fd", "kid", "is", "pr".
        models: Paths, each with `@STEPS` or without; with no images either it is that of
            `default_model`.
        images: Folders, zips or npz files in place of models.
        steps: Network evaluations for each image, with commas between; a row for each.
        times: Noise levels instead, as typed; a row for each.
        solver: A solver by name, for the diffusion models.
        guidance: Weight of guidance; 1 is off.
        n: Images of a row; None is 50,000, and of a folder all.
        seed: Non-negative.
        seeds: Several, with commas between, in place of `seed`.
        repeat: So many seeds from `seed` on.
        protocol: By name; None is that of the data set.
        features: In place of the protocol's network.
        bootstrap: Repeats for intervals; 0 is none.
        data: The reference by name or path; None is the model's own training set.
        data_dir: Where data sets lie.
        out: The report; None is a free name under `evals`.
        overwrite: Whether `out` may exist.
        save_samples: Where to keep the images.
        weights: See `load`.
        facts: See `load`.
        device: See `load`.
        batch_size: Images that are drawn at a time; None suits the device.
    """

    metrics: tuple[str, ...] = ("fid",)
    models: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    steps: str | None = None
    times: tuple[str, ...] = ()
    solver: str | None = None
    guidance: float = 1.0
    n: int | None = None
    seed: int = 0
    seeds: str | None = None
    repeat: int = 1
    protocol: str | None = None
    features: str | None = None
    bootstrap: int = 20
    data: str | None = None
    data_dir: Path | None = None
    out: Path | None = None
    overwrite: bool = False
    save_samples: Path | None = None
    weights: str = "ema"
    facts: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    batch_size: int | None = None

    @property
    def command(self) -> str:
        """What to call it."""
        return self.metrics[0] if len(self.metrics) == 1 else "all"

    def all_seeds(self) -> tuple[int, ...]:
        """The seeds.

        Raises:
            RecipeError: They are no seeds, or are asked for in two ways.
        """
        if self.repeat < 1:
            raise RecipeError(f"--repeat must be at least 1, got {self.repeat}", "--repeat 3")
        if self.seeds is None:
            found = tuple(range(self.seed, self.seed + self.repeat))
        elif self.repeat != 1 or self.seed:
            other = "--repeat" if self.repeat != 1 else "--seed"
            raise RecipeError(f"--seeds and {other} exclude each other", f"drop {other}")
        else:
            found = whole_numbers("--seeds", self.seeds, "--seeds 0,1,2")
        for seed in found:
            check_request(1, seed)
        return found

    def check(self) -> None:
        """Checks what can be checked without opening anything.

        Raises:
            RecipeError: Something contradicts itself or is out of range.
        """
        self.all_seeds()
        drawing = {
            "--model": self.models,
            "--steps": self.steps,
            "--times": self.times,
            "--repeat": self.repeat != 1,
            "--seeds": self.seeds,
            "--seed": self.seed,
            "--guidance": self.guidance != 1,
            "--solver": self.solver,
            "--save-samples": self.save_samples,
        }
        for option, given in drawing.items():
            if self.images and given:
                raise RecipeError(
                    f"--images and {option} exclude each other: these images are drawn already",
                    f"drop {option}",
                )
        if self.steps is not None:
            if self.times:
                raise RecipeError("--steps and --times exclude each other", "drop one of them")
            for steps in whole_numbers("--steps", self.steps, "--steps 1,2,4"):
                if steps < 1:
                    raise RecipeError(f"--steps must be at least 1, got {steps}", "--steps 1")
        if self.n is not None and self.n < 3:
            raise RecipeError(f"--n must be at least 3, got {self.n}", f"--n {FULL}")
        if self.batch_size is not None and self.batch_size < 1:
            raise RecipeError(
                f"--batch-size must be at least 1, got {self.batch_size}", "leave it out"
            )
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise RecipeError(
                f"--bootstrap must be 0, or 2 and more, got {self.bootstrap}", "--bootstrap 20"
            )


def whole_numbers(option: str, text: str, example: str) -> tuple[int, ...]:
    """`1,2,4` to numbers, each once.

    Raises:
        RecipeError: One of them is none, or comes twice.

    Example:
        >>> whole_numbers("--steps", "1, 2", "--steps 1,2")
        (1, 2)
    """
    found: list[int] = []
    for word in text.split(","):
        try:
            number = int(word)
        except ValueError:
            raise RecipeError(f"{option}: '{word.strip()}' is no whole number", example) from None
        if number in found:
            raise RecipeError(f"{option}: {number} comes twice", example)
        found.append(number)
    return tuple(found)


@dataclass(frozen=True)
class Subject:
    """Images that get a row.

    Args:
        name: What to call the row.
        source: The images.
        record: What they are, for the report.
        denoiser: What draws them; None if they are there.
    """

    name: str
    source: Source
    record: dict[str, Any]
    denoiser: Denoiser | None = None


@dataclass(frozen=True)
class Opened:
    """A model with how it is drawn from."""

    path: Path
    model: Model
    plans: tuple[Plan, ...]

    @property
    def name(self) -> str:
        """What its files are called."""
        return self.path.resolve().name if self.path.is_dir() else self.path.stem


def open_models(request: Request, say: Say) -> list[Opened]:
    """Opens the models on the CPU and plans their rows.

    Raises:
        CmtoolError: One cannot be opened, or not be sampled so.
    """
    typed = request.models or (str(default_model(say)),)
    found = []
    for text in typed:
        path, own = _with_steps(text)
        facts = None if path.is_dir() else request.facts
        model = open_model(path, weights=request.weights, facts=facts, say=say)
        plans = tuple(_plans(model, path, own, request))
        for plan in plans:
            say(f"{model.denoiser.kind} model {model.source}: {plan}")
        found.append(Opened(path, model, plans))
    return found


def rules_for(request: Request, models: Sequence[Opened]) -> Protocol:
    """The protocol that is asked for, else that of the data set that is named, else the model's."""
    if request.protocol is not None:
        return protocol(request.protocol)
    trained = next((opened.model.recipe.data.name for opened in models), None)
    return protocol_for((request.data if request.data in names() else trained) or "")


def _with_steps(text: str) -> tuple[Path, str | None]:
    """`MODEL@STEPS` apart; a path that is there may hold an @."""
    model, at, steps = text.rpartition("@")
    if not at or Path(text).exists():
        return Path(text), None
    return Path(model), steps


def _plans(model: Model, path: Path, own: str | None, request: Request) -> list[Plan]:
    denoiser = model.denoiser
    solver = request.solver if denoiser.kind == "diffusion" else None
    if request.times and own is None:
        sigma_data = denoiser.precond.sigma_data
        levels = [parse_times(text, sigma_data) for text in request.times]
        plans = [plan_for(denoiser, times=times, solver=solver) for times in levels]
    else:
        text = own or request.steps
        steps = [None] if text is None else whole_numbers("--steps", text, "--steps 1,2,4")
        plans = [plan_for(denoiser, count, solver=solver) for count in steps]
    for plan in plans:
        if denoiser.kind == "diffusion" and plan.nfe == 1 and not plan.own:
            raise RecipeError(
                f"{model.source} is a diffusion model: one step gives the mean of all images",
                f"along its ODE: cmtool eval {request.command} --model {path}@35",
            )
    return [guided(plan, denoiser, request.guidance) for plan in plans]


def drawn(
    opened: Opened,
    plan: Plan,
    seed: int,
    rules: Protocol,
    request: Request,
    device: torch.device,
) -> Subject:
    """Images 0 .. n - 1 of a seed, as bytes; the model must be on the device when they are read."""
    model, n = opened.model.denoiser, request.n or FULL
    facts = identity(model, plan, seed, n)

    def read(numbers: range, check: Check) -> tuple[Pixels, Labels | None]:
        size = request.batch_size or default_batch(model)
        pixels, labels = [], []
        for start in range(numbers.start, numbers.stop, size):
            batch = range(start, min(start + size, numbers.stop))
            x, label = draw(model, plan, batch, seed, watch=lambda *_: check())
            pixels.append(rules.quantise(x).numpy())
            if label is not None:
                labels.append(label.numpy())
        return np.concatenate(pixels), np.concatenate(labels) if labels else None

    record = {
        "model": str(opened.path),
        "kind": model.kind,
        "weights": request.weights,
        "weights_sha256": facts["weights"],
        "plan": str(plan),
        "nfe": plan.nfe,
        "times": plan.times.tolist(),
        "seed": seed,
        "labels": "uniform over the classes, from the seed" if model.num_classes else None,
        "rounding": rules.rounding,
        "n": n,
    }
    # Another device or version of the sampler draws images that differ in their last bits.
    key = {**facts, "rounding": rules.rounding, "cmtool": __version__, "device": device.type}
    source = Source(f"{opened.path}, NFE {plan.nfe}", n, model.image_shape, key, read)
    # Rows of one model and number of steps are told apart by their levels.
    levels = ", ".join(f"{t:g}" for t in plan.times.tolist()) if request.times else ""
    name = f"{opened.path} at {levels}" if levels else str(opened.path)
    return Subject(name, source, record, model)


def stored(data: ImageSet, where: str, content: str, n: int | None) -> Subject:
    """The first images of a set.

    Args:
        data: The set.
        where: As typed.
        content: The pixels' hash.
        n: How many; None is all.

    Raises:
        DataError: There are fewer.
    """
    if n is not None and n > len(data):
        raise DataError(f"'{where}' holds {len(data):,} images, not {n:,}", f"--n {len(data)}")
    source = source_of(data, where, content, n)
    record = {"images": where, "sha256": content, "facts": data.facts, "n": source.n}
    return Subject(where, source, record)


def source_of(data: ImageSet, where: str, content: str, n: int | None = None) -> Source:
    """The first n images of a set, or all."""

    def read(numbers: range, check: Check) -> tuple[Pixels, Labels | None]:
        check()
        return data.images(np.array(numbers)), None

    return Source(where, n or len(data), data.image_shape, {"content": content}, read)
