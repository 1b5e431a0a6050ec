"""What the two trainers' commands share: plan, print or train, report."""

import math
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from cmtool.cli._console import result, say, training_bar
from cmtool.cli._group import TYPED
from cmtool.cli._options import RunOptions

if TYPE_CHECKING:
    from cmtool.workflows.fit import Job, Listeners, Prepared


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
