"""`cmtool train`: a model from data alone."""

from pathlib import Path

from cmtool import registry
from cmtool.errors import RecipeError
from cmtool.workflows.fit import Job, Listeners, Prepared, fit, load_data, load_recipe, prepare
from cmtool.workflows.load import open_model

__all__ = ["Job", "Listeners", "fit", "plan"]


def plan(job: Job, init: Path | None, facts: dict[str, object], listeners: Listeners) -> Prepared:
    """Resolves everything and checks it; `fit` then trains.

    Args:
        job: The request.
        init: A model of the same architecture to start from.
        facts: What that model's file does not tell.
        listeners: Who hears of it.

    Raises:
        CmtoolError: Something does not fit.
    """
    say = listeners.say
    recipe = load_recipe(job, "dsm", say)
    if recipe.loss.needs_teacher_model:
        name = registry.name_of("losses", type(recipe.loss))
        raise RecipeError(
            f"loss '{name}' needs a teacher model",
            f"cmtool distill --teacher MODEL --method {name} --data ...; "
            "train a teacher first: cmtool train --method dsm --data ...",
        )
    data = load_data(recipe, job, say)
    start = None
    if init is not None:
        start = open_model(init, facts=facts, image_size=data.image_shape[1], say=say)
    return prepare(job, recipe, data, None, start, say)
