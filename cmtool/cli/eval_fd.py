"""`cmtool eval fd`."""

import typer

from cmtool.cli._evaluation import EvalOptions, FeaturesOpt, run
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(fd)


@with_options
def fd(options: EvalOptions, features: FeaturesOpt = None) -> None:
    """Print the Frechet distance in other features than Inception's; 0 is best.

    Examples:

    - `cmtool eval fd --features lite0 --steps 1` : a real ImageNet network, offline

    - `cmtool eval fd --model runs/digits-cd --model runs/digits-dsm@35 --n 10000` : FD-pixel

    - `cmtool eval fd --features mine.pt2 --steps 1,2` : a network of your own
    """
    run(options, ["fd"], features or "pixel")
