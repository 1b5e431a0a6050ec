"""`cmtool eval kid`."""

import typer

from cmtool.cli._evaluation import EvalOptions, FeaturesOpt, run
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(kid)


@with_options
def kid(options: EvalOptions, features: FeaturesOpt = None) -> None:
    """Print the kernel Inception distance, without bias and with its standard error.

    Examples:

    - `cmtool eval kid --steps 1 --n 5000` : few images do for it

    - `cmtool eval kid --steps 1,2 --features lite0` : KID-lite0, where Inception is missing
    """
    run(options, ["kid"], features)
