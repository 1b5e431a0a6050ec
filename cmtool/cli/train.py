"""`cmtool train`."""

from pathlib import Path
from typing import Annotated

import typer

from cmtool.cli import _complete
from cmtool.cli._command import Command
from cmtool.cli._help import see_also
from cmtool.cli._options import FactsOpt, RecipeArg, RunOptions, with_options
from cmtool.cli._run import run


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(cls=Command, epilog=see_also("train.md", "distill", "sample"))(train)


@with_options
def train(
    ctx: typer.Context,
    options: RunOptions,
    recipe: RecipeArg = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Start from this model's weights, with its network, in place of fresh ones.",
            rich_help_panel="Model",
            autocompletion=_complete.model,
        ),
    ] = None,
    facts: FactsOpt = [],  # noqa: B006 - Typer copies it
) -> None:
    """Train a model from data: a diffusion model (dsm, a teacher) or a consistency model (ct).

    Examples:

    - `cmtool train digits/dsm` : minutes on a laptop, nothing to download

    - `cmtool train --data photos/ --set data.image_size=32 --set data.crop=center`

    - `cmtool train --data cifar10 --method ct --max-steps 20000`

    - `cmtool train digits/dsm --resume` : goes on where it stopped

    - `torchrun --nproc_per_node 8 -m cmtool train cifar10/dsm` : eight GPUs

    An option that names a key, such as (train.lr), is the recipe's if left out.

    Writes runs/DATA-METHOD: recipe.toml, log.jsonl, samples/ and checkpoints, step-.../.
    Ctrl-C saves, and the same command with --resume goes on.
    """
    from cmtool.errors import RecipeError
    from cmtool.workflows.load import parse_facts
    from cmtool.workflows.train import plan

    if facts and init is None:
        raise RecipeError("--as describes the model of --init, which is missing", "--init MODEL")
    run(ctx, options, recipe, lambda job, to: plan(job, init, parse_facts(facts), to))
