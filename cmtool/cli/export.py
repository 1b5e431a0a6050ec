"""`cmtool export`."""

from pathlib import Path
from typing import Annotated

import typer

from cmtool.cli import _complete
from cmtool.cli import _options as opt
from cmtool.cli._console import result, say
from cmtool.cli._help import see_also


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=see_also("export.md", "info"))(export)


def export(
    format_: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="What to write, see --list formats and docs/export.md.",
            autocompletion=_complete.format_,
        ),
    ],
    model: opt.ModelArg = None,
    dtype: opt.DtypeOpt = "float32",
    steps: Annotated[
        int | None,
        typer.Option(
            help="For onnx, pt2, aoti: a whole sampler of so many steps; else the denoiser alone."
        ),
    ] = None,
    times: opt.TimesOpt = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="What to write, model card and report beside it; exports/MODEL... if left out.",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: opt.OverwriteOpt = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Send it to the Hugging Face Hub as well; wants cmtool[hub] and hf auth login.",
            rich_help_panel="Output",
        ),
    ] = None,
    weights: opt.WeightsOpt = "ema",
    facts: opt.FactsOpt = [],  # noqa: B006 - Typer copies it
) -> None:
    """Write a model for other tools, open what was written and prove that it is the same.

    Examples:

    - `cmtool export safetensors runs/digits-cd` : one file that every command takes

    - `cmtool export safetensors runs/digits-cd --dtype float16` : half the size

    - `cmtool export diffusers runs/cifar10-cd --out cifar10` : a folder for diffusers

    - `cmtool export onnx runs/digits-cd --steps 2` : a whole sampler, for onnxruntime
    """
    from cmtool.workflows.export import Request, export
    from cmtool.workflows.load import parse_facts

    request = Request(
        format_, model, weights, parse_facts(facts), dtype, steps, times, out, overwrite, push
    )
    report = export(request, say=say)
    say(report.table)
    if report.address is not None:
        say(f"on the Hub: {report.address}")
    result("\n".join(map(str, report.paths)))
