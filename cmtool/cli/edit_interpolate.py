"""`cmtool edit interpolate`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cmtool.cli import _options as opt
from cmtool.cli._console import result, say
from cmtool.cli._editing import FrameStepsOpt, ModelOpt, OneLabelOpt
from cmtool.cli._help import see_also


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command(epilog=see_also("stroke-denoise-interpolate.md", "edit"))(interpolate)


def interpolate(
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FIRST LAST]", help="Two pictures; none goes from seed to seed."),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="0,1", help="The two seeds, where no pictures are given.")
    ] = "0,1",
    frames: Annotated[int, typer.Option(help="Number of frames, both ends among them.")] = 9,
    by: Annotated[
        Literal["auto", "ode", "search", "noise"],
        typer.Option(
            help="How a picture becomes noise: a diffusion model's ODE backwards, the noise that a "
            "one-step model answers with it, or added noise."
        ),
    ] = "auto",
    strength: Annotated[
        float, typer.Option(help="How much noise --by noise adds, from 0 to 1.")
    ] = 0.5,
    model: ModelOpt = None,
    steps: FrameStepsOpt = None,
    times: opt.TimesOpt = None,
    seed: Annotated[
        int, typer.Option(help="Chooses the noise that --by noise and the steps add.")
    ] = 0,
    label: OneLabelOpt = None,
    guidance: opt.GuidanceOpt = 1.0,
    inner_steps: Annotated[
        int | None,
        typer.Option(help="Evaluations of a diffusion model for each frame; 35 if left out."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png|FILE.gif|FOLDER",
            help="A strip, an animation or a folder of frames; if left out a strip beside "
            "FIRST or in samples/.",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: opt.OverwriteOpt = False,
    weights: opt.WeightsOpt = "ema",
    facts: opt.FactsOpt = [],  # noqa: B006 - Typer copies it
    device: opt.DeviceOpt = None,
) -> None:
    """Go from one picture to another, or from one seed to another, by the arc between their noise.

    Examples:

    - `cmtool edit interpolate --seeds 3,7 --out way.gif` : between two samples

    - `cmtool edit interpolate first.png last.png --frames 16` : between two pictures
    """
    from cmtool.workflows.interpolate import Request, Wish, interpolate_to_file
    from cmtool.workflows.load import parse_facts

    wish = Wish(steps, times, seed, label, guidance, inner_steps)
    request = Request(
        *(tuple(pictures or ()), seeds, by, strength, frames, wish, out, overwrite, model),
        *(weights, parse_facts(facts), device),
    )
    result(str(interpolate_to_file(request, say=say)))
