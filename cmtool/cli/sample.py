"""`cmtool sample`."""

from pathlib import Path
from typing import Annotated

import typer

from cmtool.cli._console import counting_bar, result, say
from cmtool.cli._options import DeviceOpt, FactsOpt, ModelArg, WeightsOpt


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(sample)


def sample(
    model: ModelArg = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Network evaluations an image: 1 for a consistency, 35 for a diffusion model."
        ),
    ] = None,
    times: Annotated[
        str | None,
        typer.Option(metavar="80,0.8", help="Noise levels instead; trig:1.1 is converted."),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Images 0 .. N-1 of the seed.")] = 64,
    seed: Annotated[int, typer.Option(help="Image i depends on model, seed and i alone.")] = 0,
    label: Annotated[
        str | None, typer.Option(help="A class by number or name; drawn from the seed if left out.")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Towards the class; 1 is off.")] = 1.0,
    solver: Annotated[str | None, typer.Option(help="A diffusion model's: --list solvers.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to.", metavar="FOLDER|GRID.png|FILE.npz", rich_help_panel="Output"
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel="Output")
    ] = False,
    weights: WeightsOpt = "ema",
    facts: FactsOpt = [],  # noqa: B006 - Typer copies it
    device: DeviceOpt = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images at a time; changes no image.", rich_help_panel="Performance"),
    ] = None,
) -> None:
    """Draw images: in one step, in several, or along a diffusion model's ODE.

    Examples:

    - `cmtool sample runs/digits-cd --n 64 --out grid.png` : one step

    - `cmtool sample runs/digits-cd --times 80,0.8` : two steps at these noise levels

    - `cmtool sample runs/digits-dsm --steps 35 --solver heun` : the teacher

    - `cmtool sample runs/cifar10-cd --n 50000 --out samples.npz` : for ADM's evaluator
    """
    from cmtool.workflows.load import parse_facts
    from cmtool.workflows.sample import Request, sample_to_files

    request = Request(n, steps, times, solver, seed, label, guidance, out, overwrite, batch_size)
    with counting_bar("images") as progress:
        report = sample_to_files(
            model,
            request,
            weights=weights,
            facts=parse_facts(facts),
            device=device,
            say=say,
            progress=progress,
        )
    result("\n".join(map(str, report.paths)))
