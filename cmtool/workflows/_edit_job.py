"""From names and wishes to an editor, a model and noise levels that suit each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cmtool import registry
from cmtool.denoiser import Denoiser
from cmtool.editors.base import Editor
from cmtool.errors import CheckpointError, RecipeError, Say, did_you_mean
from cmtool.solvers.base import Solver
from cmtool.workflows._default import default_model
from cmtool.workflows._draw import Plan, default_batch, edit_levels, guided, labelled
from cmtool.workflows._edit_run import Job
from cmtool.workflows._times import parse_times
from cmtool.workflows.load import Model, open_model

INNER_STEPS = 7
"""Evaluations of a diffusion model for each estimate: three steps of Heun's and the last."""


@dataclass(frozen=True)
class Wish:
    """How to sample.

    Args:
        steps: Noise levels; None is the model's own, else the editor's number.
        times: Noise levels instead, as typed or as numbers.
        seed: Non-negative.
        label: A class by number or name.
        guidance: Weight of guidance; 1 is off.
        inner_steps: Evaluations of a diffusion model for each estimate.
        native: Whether the result is as large as the model's images.
        batch_size: Images in one call of the network; None suits the device.
    """

    steps: int | None = None
    times: str | Sequence[float] | None = None
    seed: int = 0
    label: str | int | None = None
    guidance: float = 1.0
    inner_steps: int | None = None
    native: bool = False
    batch_size: int | None = None


def make_editor(name: str, options: Mapping[str, Any]) -> Editor:
    """An editor by name.

    Raises:
        RecipeError: There is none of that name, or its options do not make sense.
    """
    cls = registry.load("editors", name)
    known = [field.name for field in fields(cls)]
    for key in options:
        if key not in known:
            takes = ", ".join([*known, *cls.pictures]) or "no options"
            guess = did_you_mean(key, [*known, *cls.pictures])
            raise RecipeError(f"{name} has no option '{key}'{guess}", f"it takes {takes}")
    try:
        editor: Editor = cls(**options)
    except ValueError as problem:
        raise RecipeError(f"{name} {problem}", f"cmtool edit {name} --help") from None
    except (TypeError, AttributeError):
        told = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise RecipeError(
            f"{name}: an option has the wrong type: {told}", f"cmtool edit {name} --help"
        ) from None
    return editor


def make_job(model: Denoiser, editor: Editor, wish: Wish) -> Job:
    """A job.

    Args:
        model: On its device.
        editor: What to do.
        wish: How to sample.

    Raises:
        CmtoolError: They do not suit each other.
    """
    name = registry.name_of("editors", type(editor))
    _check_channels(model, editor, name)
    if not 0 <= wish.seed < 2**63:
        raise RecipeError(f"--seed must be 0 or more and below 2^63, got {wish.seed}", "--seed 0")
    if wish.batch_size is not None and wish.batch_size < 1:
        raise RecipeError(f"--batch-size must be at least 1, got {wish.batch_size}", "leave it out")
    times = wish.times
    if isinstance(times, str):
        times = parse_times(times, model.precond.sigma_data)
    levels = edit_levels(model, name, type(editor).steps, wish.steps, times)
    plan = labelled(guided(Plan(levels, (), len(levels)), model, wish.guidance), model, wish.label)
    return Job(
        editor,
        model,
        levels,
        batch=wish.batch_size or default_batch(model),
        label=one_class(plan, model, wish.label),
        guidance=plan.guidance,
        inner=inner_solvers(model, wish.inner_steps),
        native=wish.native,
    )


def open_editing_model(
    path: Path | None,
    name: str,
    *,
    channels: Sequence[int],
    labelled: bool,
    weights: str,
    facts: Mapping[str, Any],
    say: Say,
) -> Model:
    """Opens the model asked for, or chooses one, see `default_model`.

    Args:
        path: The model; None chooses.
        name: The editor, for the hint.
        channels: Of the images of a model that suits, the best first; none is any.
        labelled: Whether a class is given.
        weights: See `load`.
        facts: See `load`.
        say: Is told what was passed over, and why.

    Raises:
        CheckpointError: It cannot be opened, or there is none.
    """
    if path is None:
        try:
            path = default_model(say, channels=channels, labelled=labelled)
        except CheckpointError as error:
            hint = f"cmtool edit {name} IMG --model MODEL; a diffusion model serves too"
            raise CheckpointError(error.message, hint) from None
    return open_model(path, weights=weights, facts=facts, say=say)


def _check_channels(model: Denoiser, editor: Editor, name: str) -> None:
    channels = model.image_shape[0]
    if editor.channels is not None and channels != editor.channels:
        kind = "grey" if channels == 1 else "coloured"
        raise RecipeError(
            f"{name} needs a model of {editor.channels}-channel images, and this one makes {kind} "
            "ones",
            f"a --model of {editor.channels} channels; cmtool info lists what is there",
        )


def one_class(plan: Plan, model: Denoiser, label: str | int | None) -> int | None:
    """The class of a plan; None is no class.

    Raises:
        RecipeError: It has several, or none and the model or its guidance needs one.
    """
    if len(plan.labels) > 1:
        raise RecipeError(f"--label '{label}' names several classes", "--label with one of them")
    if plan.labels:
        return plan.labels[0]
    if not model.classes:
        return None
    more = ", ..." if model.num_classes > 20 else ""
    hint = f"--label with one of {', '.join(model.classes[:20])}{more}"
    if not model.null_class:
        raise RecipeError("the model knows only pictures of a class, and no class is given", hint)
    if plan.guidance != 1:
        raise RecipeError(f"--guidance {plan.guidance:g} leads to a class, and none is given", hint)
    return None


def inner_solvers(
    model: Denoiser, steps: int | None, default: int = INNER_STEPS
) -> tuple[Solver, ...] | None:
    """The ODE steps of so many evaluations, the last one left for what noise remains; None for a
    consistency model.

    Raises:
        RecipeError: A consistency model has none.
    """
    if steps is not None and steps < 1:
        raise RecipeError(f"--inner-steps must be at least 1, got {steps}", "--inner-steps 7")
    if model.kind == "consistency":
        if steps is not None:
            raise RecipeError(
                f"--inner-steps {steps} needs a diffusion model; this is a consistency model",
                "drop --inner-steps",
            )
        return None
    euler: Solver = registry.load("solvers", "euler")()
    heun: Solver = registry.load("solvers", "heun")()
    count = default if steps is None else steps
    return tuple(heun.path(count - 1, euler)) if count > 1 else ()
