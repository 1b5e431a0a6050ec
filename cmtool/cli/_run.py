"""What the two trainers' commands share: plan, print or train, report."""

import math
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from cmtool.cli import _complete
from cmtool.cli._console import result, say, training_bar
from cmtool.cli._group import TYPED
from cmtool.cli._options import RunOptions
from cmtool.errors import RecipeError

if TYPE_CHECKING:
    from cmtool.workflows.fit import Job, Listeners, Prepared


class Command(TyperCommand):
    """A trainer's command, which says how a recipe's key is set that was typed as an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words after the command's name."""
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as problem:  # The parser's own; its module is another in older Typers.
            unknown = type(problem).__name__ == "NoSuchOption"
            option = str(getattr(problem, "option_name", ""))
            settings = _settings(option, typed) if unknown else []
            near = getattr(problem, "possibilities", None) or []
            if not settings or any(name.endswith(option.lstrip("-")) for name in near):
                raise
            told = f"there is no option '{option}', it is a key of the recipe"
            raise RecipeError(told, " or ".join(settings)) from None


def _settings(option: str, typed: list[str]) -> list[str]:
    """What to type in place of an option that is named like a recipe's keys."""
    name, value = option.lstrip("-").replace("-", "_"), "VALUE"
    for word, following in zip(typed, [*typed[1:], "-"], strict=True):
        if word.startswith(f"{option}="):
            value = word.partition("=")[2]
        elif word == option and not following.startswith("-"):
            value = following
    keys = [k for k in _complete.recipe_keys() if f".{name}=" in k or k == f"{name}.name="]
    return [f"--set {shlex.quote(key + value)}" for key in keys]


def run(
    ctx: typer.Context,
    options: RunOptions,
    recipe: str | None,
    plan: Callable[["Job", "Listeners"], "Prepared"],
) -> None:
    """Plans a run; then prints the plan for `--dry-run`, or trains."""
    from cmtool import recipe as recipes
    from cmtool.workflows.fit import Job, Listeners, fit

    job = Job(
        recipe,
        options.data,
        options.method,
        options.overrides(),
        options.out,
        options.data_dir,
        options.resume,
        options.overwrite,
        options.dry_run,
        ("cmtool", *ctx.meta[TYPED]),
    )
    prepared = plan(job, Listeners(say=say))
    shape = "x".join(map(str, prepared.data.image_shape))
    say(f"data {prepared.data.name}: {len(prepared.data)} images of {shape} (CxHxW)")
    say(f"student: {prepared.parameters / 1e6:.2f} million parameters")
    for place, step in (("first", 0), ("last", prepared.recipe.train.steps - 1)):
        curriculum = prepared.recipe.loss.describe(step, prepared.recipe.train.steps)
        if curriculum:
            say(f"{place} step: " + ", ".join(f"{k} = {v:g}" for k, v in curriculum.items()))
    if options.dry_run:
        result(recipes.dump(prepared.recipe, prepared.overridden))
        return
    say(f"run directory {prepared.out}")
    if prepared.recipe.train.compile:
        say("the first step compiles the network and takes minutes; --no-compile does without")
    with training_bar() as progress:
        report = fit(prepared, Listeners(say, progress))
    loss = "" if math.isnan(report.loss) else f", loss {report.loss:.4g}"
    say(f"{report.steps} steps, {report.images} images{loss}, {report.seconds:.0f} s")
    say(f"next: cmtool sample {shlex.quote(str(report.out))} --n 64 --out grid.png")
    result(str(report.out))
