"""`cmtool eval classes`."""

from typing import Annotated

import typer

from cmtool.cli._beyond import OneModel, run
from cmtool.cli._evaluation import DataDirOpt, FeaturesOpt, ProtocolOpt, ReferenceOpt
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(classes)


@with_options
def classes(
    options: OneModel,
    features: FeaturesOpt = None,
    per_label: Annotated[int, typer.Option(help="Number of images of each class.")] = 1000,
    protocol: ProtocolOpt = None,
    data: ReferenceOpt = None,
    data_dir: DataDirOpt = None,
) -> None:
    """Print the Frechet distance of each class by itself.

    Examples:

    - `cmtool eval classes --model runs/cifar10-cd` : in Inception's features

    - `cmtool eval classes --model runs/digits-cd --features pixel --steps 1,2` : offline
    """
    from cmtool.workflows.eval_classes import classes as work

    more = {"features": features, "protocol": protocol, "data": data, "data_dir": data_dir}
    run(options, "classes", work, per_label, **more)
