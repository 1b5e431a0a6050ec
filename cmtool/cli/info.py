"""`cmtool info`."""

from pathlib import Path
from typing import Annotated

import typer

from cmtool.cli._console import result
from cmtool.cli._options import FactsOpt


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(info)


def info(
    what: Annotated[
        str | None, typer.Argument(metavar="MODEL|DATA", help="Nothing describes this machine.")
    ] = None,
    facts: FactsOpt = [],  # noqa: B006 - Typer copies it
    data_dir: Annotated[Path | None, typer.Option(help="Where data sets lie.")] = None,
) -> None:
    """Describe a model, a data set or this machine.

    Examples:

    - `cmtool info` : versions, devices, data sets found

    - `cmtool info runs/digits-cd` : architecture, noise range, classes, training

    - `cmtool info cd_imagenet64_l2.pt` : the same of a published file, and what to do with it

    - `cmtool info ema_0.9999_600000.pt --as cd_imagenet64_l2` : of which more is known by name

    - `cmtool info cifar10` : number, size and classes of the images
    """
    from cmtool.workflows.info import describe
    from cmtool.workflows.load import parse_facts

    facts_found = describe(what, parse_facts(facts), data_dir)
    width = max(len(key) for key in facts_found)
    result("\n".join(f"{key:{width}}  {value}" for key, value in facts_found.items()))
