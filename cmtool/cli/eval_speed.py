"""`cmtool eval speed`."""

from typing import Annotated

import typer

from cmtool.cli._beyond import OneModel, TeacherOpt, run
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(speed)


@with_options
def speed(
    options: OneModel,
    teacher: TeacherOpt = None,
    repeats: Annotated[
        int, typer.Option(help="Number of timed calls, of which the median counts.")
    ] = 5,
    warm_up: Annotated[
        int, typer.Option(help="Number of calls before them that are not timed.")
    ] = 1,
) -> None:
    """Print images a second and the time of one image, against the teacher.

    Examples:

    - `cmtool eval speed --model runs/digits-cd` : at 1, 2 and 4 evaluations

    - `cmtool eval speed --steps 1 --batch-size 256 --device cuda --repeats 20` : in large batches
    """
    from cmtool.workflows.eval_speed import Wanted
    from cmtool.workflows.eval_speed import speed as work

    run(options, "speed", work, Wanted(teacher, repeats, warm_up))
