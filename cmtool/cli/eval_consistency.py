"""`cmtool eval consistency`."""

from typing import Annotated, Literal

import typer

from cmtool.cli._beyond import OneModel, TeacherOpt, run
from cmtool.cli._evaluation import DataDirOpt, ReferenceOpt
from cmtool.cli._options import with_options


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(consistency)


@with_options
def consistency(
    options: OneModel,
    teacher: TeacherOpt = None,
    n: Annotated[
        int, typer.Option("--n", help="Number of trajectories, 0 .. N-1 of the seed.")
    ] = 256,
    bins: Annotated[
        int,
        typer.Option(help="Parts into which the noise levels are cut, each a line of the table."),
    ] = 8,
    teacher_steps: Annotated[
        int,
        typer.Option(
            help="Heun steps of the teacher, two evaluations each; 2 or more for each bin."
        ),
    ] = 40,
    start: Annotated[
        Literal["noise", "data"],
        typer.Option(help="Where the bins begin: pure noise, or training images plus noise."),
    ] = "noise",
    data: ReferenceOpt = None,
    data_dir: DataDirOpt = None,
) -> None:
    """Print how far a model is from giving one image along a trajectory of its teacher.

    Examples:

    - `cmtool eval consistency --model runs/digits-cd --steps 1,2` : by noise level, and to the end

    - `cmtool eval consistency --model runs/digits-cd --start data --bins 16` : as in training
    """
    from cmtool.workflows.eval_consistency import Wanted
    from cmtool.workflows.eval_consistency import consistency as work

    wanted = Wanted(teacher, bins, teacher_steps, start)
    run(options, "consistency", work, wanted, n=n, data=data, data_dir=data_dir)
