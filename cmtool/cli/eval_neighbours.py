"""`cmtool eval neighbours`."""

from typing import Annotated

import typer

from cmtool.cli._beyond import OneModel, run
from cmtool.cli._evaluation import DataDirOpt, ReferenceOpt
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(neighbours)


@with_options
def neighbours(
    options: OneModel,
    features: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="pixel, lite0, inception, a network.")
    ] = "pixel",
    n: Annotated[int, typer.Option("--n", help="Images 0 .. N-1 of the seed.")] = 1000,
    k: Annotated[int, typer.Option("--k", help="Training images beside each sample.")] = 5,
    show: Annotated[int, typer.Option(help="Samples in the picture, the nearest first.")] = 12,
    data: ReferenceOpt = None,
    data_dir: DataDirOpt = None,
) -> None:
    """Show the training images nearest to samples, which tells whether the model remembers them.

    Examples:

    - `cmtool eval neighbours --model runs/digits-cd` : a picture, and distances of test images

    - `cmtool eval neighbours --model runs/cifar10-cd --features lite0` : by what they show
    """
    from cmtool.workflows.eval_neighbours import Wanted
    from cmtool.workflows.eval_neighbours import neighbours as work

    more = {"features": features, "n": n, "data": data, "data_dir": data_dir}
    run(options, "neighbours", work, Wanted(k, show), **more)
