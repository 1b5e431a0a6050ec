"""`cmtool sample`."""

import typer

from cmtool.cli import _options as opt
from cmtool.cli._command import Command
from cmtool.cli._console import counting_bar, result, say
from cmtool.cli._help import see_also
from cmtool.errors import RecipeError


def register(app: typer.Typer) -> None:
    """Adds the command."""
    page = see_also("sampling.md", "eval", "eval search")
    app.command(cls=Command, epilog=page, context_settings={"allow_extra_args": True})(sample)


def sample(
    ctx: typer.Context,
    model: opt.ModelArg = None,
    steps: opt.StepsOpt = None,
    times: opt.TimesOpt = None,
    n: opt.CountOpt = None,
    seed: opt.SeedOpt = 0,
    label: opt.LabelOpt = None,
    per_label: opt.PerLabelOpt = None,
    guidance: opt.GuidanceOpt = 1.0,
    solver: opt.SolverOpt = None,
    schedule: opt.ScheduleOpt = None,
    gamma: opt.GammaOpt = 1.0,
    truncation: opt.TruncationOpt = 1.0,
    out: opt.ImagesOutOpt = None,
    overwrite: opt.OverwriteOpt = False,
    resume: opt.ResumeOpt = False,
    compare: opt.CompareOpt = None,
    trajectory: opt.TrajectoryOpt = False,
    weights: opt.WeightsOpt = "ema",
    facts: opt.FactsOpt = [],  # noqa: B006 - Typer copies it
    device: opt.DeviceOpt = None,
    batch_size: opt.BatchSizeOpt = None,
    engine: opt.EngineOpt = "torch",
) -> None:
    """Draw images: in one step, in several, or along a diffusion model's ODE.

    Examples:

    - `cmtool sample runs/digits-cd --n 64 --out grid.png` : one step

    - `cmtool sample runs/digits-cd --times 80,0.8` : two steps at these noise levels

    - `cmtool sample runs/digits-cd --compare @1,@2,runs/digits-dsm@35 --out three.png` : rows

    - `cmtool sample runs/cifar10-cd --n 50000 --out samples.npz` : for ADM's evaluator

    Says the plan before the first image, and on stdout the paths of what it wrote.
    """
    from cmtool.workflows.load import parse_facts
    from cmtool.workflows.sample import Request, compare_to_file, path_to_file, sample_to_files

    if ctx.args:
        hint = f"--compare {','.join([str(model), *ctx.args])} draws a row of each"
        raise RecipeError(f"one model a command, and there is also '{ctx.args[0]}'", hint)
    request = Request(
        *(n, steps, times, solver, schedule, gamma, seed, label, per_label, guidance, truncation),
        *(out, overwrite, batch_size, resume, compare, engine),
    )
    if compare is not None and trajectory:
        raise RecipeError("--compare and --trajectory exclude each other", "drop one of them")
    way = path_to_file if trajectory else sample_to_files if compare is None else compare_to_file
    with counting_bar("images") as progress:
        report = way(
            model,
            request,
            weights=weights,
            facts=parse_facts(facts),
            device=device,
            say=say,
            progress=progress,
        )
    result("\n".join(map(str, report.paths)))
