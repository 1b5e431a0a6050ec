"""`cmtool eval is`."""

import typer

from cmtool.cli._evaluation import EvalOptions, FeaturesOpt, run
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command("is")(inception_score)


@with_options
def inception_score(options: EvalOptions, features: FeaturesOpt = None) -> None:
    """Print the Inception score, which needs no reference; more is better.

    Examples:

    - `cmtool eval is --model runs/cifar10-cd --steps 1` : of 50,000 images

    - `cmtool eval is --images samples.npz --protocol adm` : of a file

    - `cmtool eval is --steps 1 --features lite0` : IS-lite0, where Inception is missing
    """
    run(options, ["is"], features)
