"""What a user asks of `train` or `distill`, and the recipe that comes of it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cmtool import recipe as recipes
from cmtool import registry
from cmtool.errors import RecipeError, Say
from cmtool.recipe import Override, Recipe


@dataclass(frozen=True)
class Job:
    """What a user asks of `train` or `distill`.

    Args:
        recipe: A recipe's path or name; None chooses one by data, method and machine.
        data: Data set by name or path; None takes the recipe's.
        method: A loss by name; None takes the recipe's.
        overrides: `--set` and the options that stand for it.
        out: The run directory; None is runs/DATA-METHOD.
        data_dir: Where to look for data sets.
        resume: Go on with the run in `out`.
        overwrite: Replace the run in `out`.
        dry_run: Nothing will be written, so that `out` may be taken.
        command: The words of the command line, to be kept; empty if there was none.
    """

    recipe: str | None = None
    data: str | None = None
    method: str | None = None
    overrides: tuple[Override, ...] = ()
    out: Path | None = None
    data_dir: Path | None = None
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    command: tuple[str, ...] = ()

    @property
    def overridden(self) -> tuple[str, ...]:
        """The recipe keys that `overrides` set."""
        return tuple(map(_key, self.overrides))


def _key(override: Override) -> str:
    key = override.partition("=")[0] if isinstance(override, str) else override[0]
    return key.strip()


def choose_recipe(job: Job, default_method: str, say: Say) -> str:
    """The recipe for a job that names none: a family by data and machine, a file by method.

    Raises:
        RecipeError: Neither data nor recipe is given, or the family has no such method.
    """
    if job.data is None:
        raise RecipeError("neither a recipe nor data is given", "--data NAME|FOLDER|ZIP")
    method = job.method or default_method
    family = "digits" if job.data == "digits" else "cifar10"
    if family == "cifar10" and not torch.cuda.is_available():
        family = "cifar10-cpu"
    name = f"{family}/{method}"
    if name not in recipes.names():
        has = ", ".join(r for r in recipes.names() if r.startswith(f"{family}/"))
        raise RecipeError(f"there is no recipe '{name}'", f"{family} has {has}; or give a recipe")
    say(f"recipe {name}")
    if family == "cifar10-cpu":
        say("  made for a CPU; the published settings: give cifar10/" + f"{method} as RECIPE")
    return name


def load_recipe(job: Job, default_method: str, say: Say) -> Recipe:
    """The job's recipe with its overrides applied, and the learning rate that suits its batch."""
    overrides: list[Override] = list(job.overrides)
    if job.data is not None:
        overrides.append(("data.name", job.data))
    if job.recipe is not None and job.method is not None:
        overrides.append(("loss.name", job.method))
    source = job.recipe or choose_recipe(job, default_method, say)
    try:
        recipe = recipes.load(source, overrides)
    except RecipeError as error:
        if job.recipe is None or job.method not in registry.names("losses"):
            raise
        hint = f"--method changes only the loss's name in '{job.recipe}': leave out one of the two"
        raise RecipeError(error.message, hint) from None
    usual = recipes.load(source, [o for o in overrides if _key(o) != "train.batch_size"])
    return suit_batch(recipe, usual.train.batch_size, "train.lr" in job.overridden, say)


def suit_batch(recipe: Recipe, usual: int, lr_is_chosen: bool, say: Say) -> Recipe:
    """Lowers the learning rate for a batch that is smaller than the recipe's.

    A gradient's noise grows as 1 / sqrt(batch). The Adam family divides each update by the
    gradient's size, noise included, so lr falls by the square root of the batch's ratio for the
    weights to be shaken as much by each image as before.

    Source:
        Malladi et al. 2022, arXiv 2205.10287, Section 1 (the square-root rule for Adam).

    Args:
        recipe: With the smaller batch.
        usual: The recipe's own batch size.
        lr_is_chosen: The user set the rate too, which stays.
        say: Is told.
    """
    train = recipe.train
    if train.batch_size >= usual:
        return recipe
    ratio = train.batch_size / usual
    smaller = f"batch {train.batch_size} is 1/{1 / ratio:.3g} of the recipe's {usual}"
    if lr_is_chosen or not train.scale_lr:
        say(f"{smaller}; lr stays {train.lr:g} as asked")
        return recipe
    lr = train.lr * math.sqrt(ratio)
    say(
        f"{smaller}: lr {train.lr:g} -> {lr:.3g}, by the square root since {train.optimizer} "
        "divides by the gradient's noise (--lr, or --set train.scale_lr=false, keeps it); "
        "steps and averages stay"
    )
    return replace(recipe, train=replace(train, lr=lr))
