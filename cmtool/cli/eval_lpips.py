"""`cmtool eval lpips`."""

import typer

from cmtool.cli._beyond import OneModel, run
from cmtool.cli._evaluation import CountOpt, DataDirOpt, ReferenceOpt
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(lpips)


@with_options
def lpips(
    options: OneModel,
    n: CountOpt = 1000,
    data: ReferenceOpt = None,
    data_dir: DataDirOpt = None,
) -> None:
    """Print how much images differ from each other, beside the same of the training images.

    Examples:

    - `cmtool eval lpips --model runs/cifar10-cd --steps 1,2` : the mean over all pairs

    - `cmtool eval lpips --n 200` : the newest model, few images
    """
    from cmtool.workflows.eval_lpips import diversity

    run(options, "lpips", diversity, n=n, data=data, data_dir=data_dir)
