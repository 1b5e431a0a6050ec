"""`cmtool distill`."""

from pathlib import Path
from typing import Annotated

import typer

from cmtool.cli import _complete
from cmtool.cli._command import Command
from cmtool.cli._help import see_also
from cmtool.cli._options import A_MODEL, FactsOpt, RecipeArg, RunOptions, with_options
from cmtool.cli._run import run


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(cls=Command, epilog=see_also("distill.md", "train", "sample", "eval"))(distill)


@with_options
def distill(
    ctx: typer.Context,
    options: RunOptions,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help=f"The diffusion model to distil, always needed. {A_MODEL}.",
            rich_help_panel="Model",
            autocompletion=_complete.teacher,
        ),
    ] = None,
    recipe: RecipeArg = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Start from this model's weights in place of the teacher's: an earlier student.",
            rich_help_panel="Model",
            autocompletion=_complete.model,
        ),
    ] = None,
    facts: FactsOpt = [],  # noqa: B006 - Typer copies it
) -> None:
    """Distil a diffusion model into a consistency model that draws in one step.

    Examples:

    - `cmtool distill --teacher edm.pt --data cifar10`

    - `cmtool distill digits/cd --teacher runs/digits-dsm`

    - `cmtool distill --teacher edm.pt --data cifar10 --set loss.levels=40 --dry-run`

    - `cmtool distill --teacher edm.pt --data cifar10 --resume` : goes on where it stopped

    An option that names a key, such as (train.lr), is the recipe's if left out.

    The student starts from the teacher's weights, or from --init's. Writes runs/DATA-METHOD:
    recipe.toml, log.jsonl, samples/ and checkpoints, step-.../. Ctrl-C saves, and the same command
    with --resume goes on.
    """
    from cmtool.errors import RecipeError
    from cmtool.workflows.distill import plan
    from cmtool.workflows.load import parse_facts

    if teacher is None:
        raise RecipeError(
            "distil what? --teacher is missing",
            "--teacher MODEL; train one with: cmtool train digits/dsm, or learn from data alone: "
            "cmtool train --method ct --data ...",
        )
    run(ctx, options, recipe, lambda job, to: plan(job, teacher, parse_facts(facts), to, init))
