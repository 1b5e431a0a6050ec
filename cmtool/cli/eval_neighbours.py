"""`cmtool eval neighbours`."""

from typing import Annotated

import typer

from cmtool.cli import _complete
from cmtool.cli._beyond import OneModel, run
from cmtool.cli._evaluation import CountOpt, DataDirOpt, ReferenceOpt
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(neighbours)


@with_options
def neighbours(
    options: OneModel,
    features: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="What near means: in pixels, or in the features of lite0, inception or a file.",
            autocompletion=_complete.features,
        ),
    ] = "pixel",
    n: CountOpt = 1000,
    k: Annotated[
        int, typer.Option("--k", help="Number of training images beside each sample.")
    ] = 5,
    show: Annotated[
        int, typer.Option(help="Number of samples in the picture, the nearest first.")
    ] = 12,
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
