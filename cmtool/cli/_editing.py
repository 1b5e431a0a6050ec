"""What the commands of `cmtool edit` share: their options, and the call of the workflow."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cmtool.cli import _options as opt
from cmtool.cli._console import counting_bar, result, say


def _output(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Output", **more)


ModelOpt = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL",
        help="A run, a .safetensors or a .pt file; the newest one-step model in runs/ that suits "
        "if left out.",
        rich_help_panel="Model",
    ),
]


@dataclass(frozen=True)
class EditOptions:
    """Options of every editor."""

    images: Annotated[
        list[Path], typer.Argument(metavar="IMG...", help="Pictures, or one folder of pictures.")
    ]
    model: ModelOpt = None
    steps: Annotated[
        int | None, typer.Option(help="Noise levels; the model's or the editor's if left out.")
    ] = None
    times: opt.TimesOpt = None
    n: Annotated[int, typer.Option("--n", help="Variants of each picture.")] = 1
    seed: Annotated[
        int, typer.Option(help="Variant v of a picture depends on model, seed and v alone.")
    ] = 0
    label: Annotated[
        str | None,
        typer.Option(metavar="3|cat", help="What is in the picture, for a model of classes."),
    ] = None
    guidance: opt.GuidanceOpt = 1.0
    inner_steps: Annotated[
        int | None,
        typer.Option(help="A diffusion model's evaluations for each noise level; 7 if left out."),
    ] = None
    native: Annotated[
        bool, typer.Option("--native", help="The result at the size of the model's images.")
    ] = False
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="The picture is clean: degrade it first, then compare."),
    ] = False
    out: Annotated[
        Path | None,
        _output("Where to; IMG.EDITOR.png beside the picture if left out.", metavar="FILE|DIR"),
    ] = None
    overwrite: opt.OverwriteOpt = False
    resume: Annotated[bool, _output("Skip pictures whose results are there.", "--resume")] = False
    truth: Annotated[
        Path | None,
        _output(
            "The clean picture, or a folder of them: print PSNR, SSIM, LPIPS.", metavar="IMG|DIR"
        ),
    ] = None
    compare: Annotated[
        bool, _output("Write a strip of input, measurement, results, truth too.", "--compare")
    ] = False
    trajectory: Annotated[bool, _output("Write an animation of the steps too.", "--trajectory")] = (
        False
    )
    weights: opt.WeightsOpt = "ema"
    facts: opt.FactsOpt = field(default_factory=list)
    device: opt.DeviceOpt = None
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images in one call of the network.", rich_help_panel="Performance"),
    ] = None


@dataclass(frozen=True)
class HoleOptions:
    """Options of an editor with a mask."""

    mask: Annotated[
        Path | None, typer.Option(metavar="M", help="A picture, white where to repaint.")
    ] = None
    box: Annotated[
        str | None, typer.Option(metavar="x0,y0,x1,y1", help="Repaint this rectangle, in pixels.")
    ] = None
    pad: Annotated[
        str | None,
        typer.Option(
            metavar="left,top,right,bottom", help="Paint beyond the edges, so many pixels."
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
