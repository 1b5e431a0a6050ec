"""`cmtool eval pr`."""

import typer

from cmtool.cli._evaluation import EvalOptions, FeaturesOpt, run
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(pr)


@with_options
def pr(options: EvalOptions, features: FeaturesOpt = None) -> None:
    """Print precision, recall, density and coverage: how real the images are, and how various.

    Examples:

    - `cmtool eval pr --steps 1` : Inception features, k of the protocol

    - `cmtool eval pr --steps 1,2 --features lite0` : where Inception is missing
    """
    run(options, ["pr"], features)
