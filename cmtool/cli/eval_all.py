"""`cmtool eval all`."""

import typer

from cmtool.cli._evaluation import EvalOptions, FeaturesOpt, run
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command("all")(everything)


@with_options
def everything(options: EvalOptions, features: FeaturesOpt = None) -> None:
    """Print all figures of the protocol from one drawing of the images.

    Examples:

    - `cmtool eval all --model runs/cifar10-cd --steps 1,2,4` : FID, KID, IS, precision, recall

    - `cmtool eval all --features lite0 --steps 1` : without Inception's own
    """
    run(options, ["fid", "kid", "is", "pr"] if features is None else ["fd", "kid", "pr"], features)
