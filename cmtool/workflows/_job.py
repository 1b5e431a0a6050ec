"""What a user asks of `train` or `distill`, and the recipe that comes of it."""

import math
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cmtool import recipe as recipes
from cmtool import registry
from cmtool.data.names import names as data_names
from cmtool.errors import RecipeError, Say
from cmtool.recipe import Override, Recipe
from cmtool.workflows._run_facts import is_run

LARGE = {"imagenet64": "imagenet64", "lsun-bedroom": "lsun256", "lsun-cat": "lsun256"}
"""The families of published recipes for data sets beside CIFAR-10."""


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
    families, known = _families(job.data), recipes.names()
    name = next((f"{f}/{method}" for f in families if f"{f}/{method}" in known), None)
    if name is None:
        has = ", ".join(r for r in known if r.startswith(f"{families[0]}/"))
        raise RecipeError(
            f"there is no recipe '{families[0]}/{method}'",
            f"{families[0]} has {has}; or give a recipe",
        )
    say(f"recipe {name}")
    large = f"{LARGE.get(job.data, 'cifar10')}/{method}"
    if name.startswith("cifar10-cpu/") and large in known:
        say(f"  made for a CPU; the published settings: give {large} as RECIPE")
    return name


def _families(data: str) -> list[str]:
    """Whose recipes suit a data set on this machine, the best first."""
    if data == "digits":
        return ["digits"]
    gpu = torch.cuda.is_available()
    own = "mnist-cpu" if data == "mnist" else LARGE.get(data) if gpu else None
    return [*([own] if own else []), "cifar10" if gpu else "cifar10-cpu"]


def load_recipe(job: Job, default_method: str, say: Say) -> Recipe:
    """The job's recipe with its overrides applied, and the learning rate that suits its batch."""
    overrides: list[Override] = list(job.overrides)
    if job.data is not None:
        overrides.append(("data.name", job.data))
    if job.recipe is not None and job.method is not None:
        overrides.append(("loss.name", job.method))
    if job.recipe is not None:
        _check_is_no_data(job.recipe)
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


def _check_is_no_data(word: str) -> None:
    folder = word.endswith(("/", ".zip")) or (Path(word).is_dir() and not is_run(Path(word)))
    if word not in recipes.names() and (folder or word in data_names()):
        hint = f"--data {shlex.quote(word)} takes the recipe that suits"
        raise RecipeError(f"'{word}' stands where a recipe is expected", hint)


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
