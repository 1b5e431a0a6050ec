"""`cmtool distill`: a consistency model from a diffusion model."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from cmtool import registry
from cmtool.data.base import ImageSet
from cmtool.errors import CheckpointError, RecipeError, Say
from cmtool.recipe import Recipe
from cmtool.schedules.karras import Karras
from cmtool.workflows._preflight import check_scalings
from cmtool.workflows._start import same_weights
from cmtool.workflows.fit import Job, Listeners, Prepared, fit, load_data, load_recipe, prepare
from cmtool.workflows.load import Model, knows_crop, open_model

__all__ = ["Job", "Listeners", "fit", "plan"]


def plan(
    job: Job,
    teacher: Path,
    facts: dict[str, object],
    listeners: Listeners,
    init: Path | None = None,
) -> Prepared:
    """Resolves everything and checks it; `fit` then distils.

    Args:
        job: The request.
        teacher: A diffusion model: what `cmtool.load` takes.
        facts: What the teacher's file does not tell.
        listeners: Who hears of it.
        init: A model of the student's architecture to start from; None is the teacher.

    Raises:
        CmtoolError: Something does not fit.
    """
    say = listeners.say
    recipe = load_recipe(job, "cd", say)
    if not recipe.loss.needs_teacher_model:
        name = registry.name_of("losses", type(recipe.loss))
        raise RecipeError(f"loss '{name}' learns from data alone", f"cmtool train --method {name}")
    model, data = None, None
    if not teacher.is_file() or knows_crop(teacher):
        model = _teacher(open_model(teacher, facts=facts, say=say))
        recipe = _same_crop(recipe, model)
    data = load_data(recipe, job, say)
    if model is None:
        size = data.image_shape[1]
        model = _teacher(open_model(teacher, facts=facts, image_size=size, say=say))
    _refuse_overrides(job, recipe, model)
    if model.denoiser.guidable is None and "teacher.guidance" not in job.overridden:
        recipe = _unguided(recipe, say)
    asked = recipe.data.conditional and "data.conditional" in job.overridden
    check_scalings(model.recipe.denoiser, recipe.loss)
    _check_teacher(model, recipe, data, labelled=asked or bool(model.denoiser.classes))
    recipe = _follow(model, recipe, say)
    if init is not None:
        start = open_model(init, image_size=data.image_shape[1], say=say)
        return prepare(job, recipe, data, model, start, say)
    same = same_weights(recipe.network, model.recipe.network)
    if not same:
        say("the recipe's [network] is not the teacher's: the student starts from random weights")
    return prepare(job, recipe, data, model, model if same else None, say)


def _teacher(model: Model) -> Model:
    if model.denoiser.kind != "diffusion":
        raise CheckpointError(
            f"{model.source} is a consistency model; a teacher must be a diffusion model",
            "train one: cmtool train --method dsm --data ...",
        )
    return model


def _same_crop(recipe: Recipe, model: Model) -> Recipe:
    """The student's images are cut as the teacher's were."""
    ours, theirs = recipe.data, model.recipe.data
    if ours.image_size is not None or theirs.image_size is None:
        return recipe
    crop = ours.crop or theirs.crop
    return replace(recipe, data=replace(ours, image_size=theirs.image_size, crop=crop))


def _unguided(recipe: Recipe, say: Say) -> Recipe:
    """A recipe also serves teachers that cannot be guided."""
    if recipe.teacher.guidance != 1.0:
        say(
            f"note: the teacher was not trained with and without classes, so the recipe's "
            f"teacher.guidance = {recipe.teacher.guidance} is left out"
        )
    return replace(recipe, teacher=replace(recipe.teacher, guidance=1.0))


def _refuse_overrides(job: Job, recipe: Recipe, model: Model) -> None:
    """What a student has from its teacher cannot be set."""
    for key in job.overridden:
        if key.startswith("denoiser."):
            raise RecipeError(f"--set {key}: a student has its teacher's [denoiser]", "drop it")
    plain = "data.conditional" in job.overridden and not recipe.data.conditional
    if plain and model.denoiser.classes:
        raise RecipeError(
            "--set data.conditional: a student has its teacher's classes",
            "drop it, or a teacher without classes: cmtool train --set data.conditional=false ...",
        )


def _check_teacher(model: Model, recipe: Recipe, data: ImageSet, *, labelled: bool) -> None:
    teacher = model.denoiser
    if teacher.image_shape != data.image_shape:
        theirs, ours = "x".join(map(str, teacher.image_shape)), "x".join(map(str, data.image_shape))
        same_channels = teacher.image_shape[0] == data.image_shape[0]
        size = f"--set data.image_size={teacher.image_shape[1]}, or " if same_channels else ""
        raise CheckpointError(
            f"the teacher makes {theirs} images (CxHxW), '{data.name}' has {ours}",
            f"{size}another teacher",
        )
    if labelled and teacher.num_classes != data.num_classes:
        hint = "another teacher"
        if not teacher.classes:
            hint = f"--set data.conditional=false, or {hint}"
        elif not data.classes:
            without = f"cmtool train --data {shlex.quote(str(recipe.data.name))}"
            hint = f"a sub-folder of images for each class, or a teacher without: {without}"
        raise CheckpointError(
            f"the teacher has {teacher.num_classes} classes, '{data.name}' has {data.num_classes}",
            hint,
        )
    if recipe.teacher.guidance != 1.0 and not labelled:
        raise RecipeError(
            "teacher.guidance needs a teacher with classes", "--set teacher.guidance=1"
        )
    if recipe.teacher.guidance != 1.0 and teacher.guidable is None:
        raise RecipeError(
            "teacher.guidance needs a teacher that was trained without classes too, and this one "
            "never was (data.label_dropout = 0)",
            "--set teacher.guidance=1, or train one: cmtool train --set data.label_dropout=0.1 ...",
        )


def _follow(model: Model, recipe: Recipe, say: Say) -> Recipe:
    """The student takes from its teacher what the recipe leaves open."""
    theirs = model.recipe
    schedule = theirs.schedule if recipe.schedule == Karras() else recipe.schedule
    network = recipe.network or theirs.network
    if isinstance(recipe.teacher.guidance, tuple) and hasattr(network, "guidance_input"):
        network = replace(cast(Any, network), guidance_input=True)
    low, _ = schedule.noise_range
    denoiser = replace(theirs.denoiser, precond=recipe.loss.precond, boundary=low)
    classes = model.denoiser.num_classes
    say(f"teacher {model.source}: {type(theirs.network).__name__}, {classes or 'no'} classes")
    return replace(
        recipe,
        data=replace(recipe.data, conditional=classes > 0),
        network=network,
        schedule=schedule,
        denoiser=denoiser,
    )
