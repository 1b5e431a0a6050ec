"""`cmtool eval fid`."""

import typer

from cmtool.cli._evaluation import EvalOptions, run
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(fid)


@with_options
def fid(options: EvalOptions) -> None:
    """Print the Frechet Inception distance to the reference; 0 is best.

    Examples:

    - `cmtool eval fid --steps 1` : the newest model against its own training set

    - `cmtool eval fid --model runs/cifar10-cd --steps 1,2,4 --repeat 3` : mean and minimum

    - `cmtool eval fid --images samples.npz --data cifar10 --protocol cm-cifar10` : a file
    """
    run(options, ["fid"])
