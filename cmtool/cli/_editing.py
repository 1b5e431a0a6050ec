"""What the commands of `cmtool edit` share: their options, and the call of the workflow."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cmtool.cli import _complete
from cmtool.cli import _options as opt
from cmtool.cli._console import counting_bar, result, say


def _output(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Output", **more)


ModelOpt = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL",
        help=f"{opt.A_MODEL}; {opt.NEWEST} if left out.",
        rich_help_panel="Model",
        autocompletion=_complete.model,
    ),
]


OneLabelOpt = Annotated[
    str | None,
    typer.Option(
        metavar="3|cat",
        help="What is in the picture, by number or name; none if left out. Needed where the model "
        "was never trained without.",
        autocompletion=_complete.label,
    ),
]
FrameStepsOpt = Annotated[
    int | None,
    typer.Option(
        help="Number of noise levels from each frame's noise to its image; those stored in the "
        "model, else 1, if left out."
    ),
]


@dataclass(frozen=True)
class EditOptions:
    """Options of every editor."""

    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMG...", help="Pictures of any size, or one folder of pictures."),
    ]
    model: ModelOpt = None
    steps: Annotated[
        int | None,
        typer.Option(
            help="Number of noise levels; those stored in the model, else the editor's own number "
            "(18, for denoise 1) if left out."
        ),
    ] = None
    times: opt.TimesOpt = None
    n: Annotated[int, typer.Option("--n", help="Number of results for each picture.")] = 1
    seed: Annotated[
        int,
        typer.Option(
            help="Chooses the noise: result v of a picture depends on model, seed and v alone."
        ),
    ] = 0
    label: OneLabelOpt = None
    guidance: opt.GuidanceOpt = 1.0
    inner_steps: Annotated[
        int | None,
        typer.Option(
            help="Evaluations of a diffusion model at each noise level; 7 if left out. Of a "
            "consistency model it is one."
        ),
    ] = None
    native: Annotated[
        bool,
        typer.Option(
            "--native", help="Give the result at the size of the model's images, not the picture's."
        ),
    ] = False
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="The picture is clean: degrade it first, edit that, and print how near the "
            "result comes to it.",
        ),
    ] = False
    out: Annotated[
        Path | None,
        _output(
            "The result's file, or a folder for several; IMG.EDITOR.png beside each picture if "
            "left out.",
            metavar="FILE|FOLDER",
        ),
    ] = None
    overwrite: opt.OverwriteOpt = False
    resume: Annotated[
        bool, _output("Skip pictures whose results are there already.", "--resume")
    ] = False
    truth: Annotated[
        Path | None,
        _output(
            "The clean picture, or a folder with those of the same names: print PSNR, SSIM and "
            "LPIPS against it.",
            metavar="IMG|FOLDER",
        ),
    ] = None
    compare: Annotated[
        bool,
        _output(
            "Also write a strip of input, measurement, results and truth: IMG.EDITOR.compare.png.",
            "--compare",
        ),
    ] = False
    trajectory: Annotated[
        bool,
        _output("Also write an animation of the steps: IMG.EDITOR.steps.gif.", "--trajectory"),
    ] = False
    weights: opt.WeightsOpt = "ema"
    facts: opt.FactsOpt = field(default_factory=list)
    device: opt.DeviceOpt = None
    batch_size: opt.BatchSizeOpt = None


@dataclass(frozen=True)
class HoleOptions:
    """Options of an editor with a mask."""

    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="IMG",
            help="A black and white picture of the same size, white where to repaint. Mask, box "
            "and pad add up; with none of them transparent pixels are repainted.",
        ),
    ] = None
    box: Annotated[
        str | None,
        typer.Option(
            metavar="x0,y0,x1,y1",
            help="Repaint this rectangle: its left, top, right and bottom edge, in pixels.",
        ),
    ] = None
    pad: Annotated[
        str | None,
        typer.Option(
            metavar="l,t,r,b",
            help="Add so many pixels at left, top, right and bottom, and paint those.",
        ),
    ] = None


def run(editor: str, o: EditOptions, hole: HoleOptions, options: dict[str, Any]) -> None:
    """Edits, and prints figures and paths."""
    from cmtool.workflows.edit import Hole, Request, Wish, edit_files
    from cmtool.workflows.load import parse_facts

    request = Request(
        images=tuple(o.images),
        wish=Wish(
            o.steps, o.times, o.seed, o.label, o.guidance, o.inner_steps, o.native, o.batch_size
        ),
        hole=Hole(hole.mask, hole.box, hole.pad),
        n=o.n,
        simulate=o.simulate,
        truth=o.truth,
        compare=o.compare,
        trajectory=o.trajectory,
        out=o.out,
        overwrite=o.overwrite,
        resume=o.resume,
        model=o.model,
        weights=o.weights,
        facts=parse_facts(o.facts),
        device=o.device,
    )
    with counting_bar("network evaluations") as progress:
        report = edit_files(editor, options, request, say=say, progress=progress)
    result("\n".join([*report.scores, *map(str, report.paths)]))
