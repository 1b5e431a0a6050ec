"""What the commands of `cmtool eval` that look at one model share."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cmtool.cli import _complete
from cmtool.cli import _options as opt
from cmtool.cli._console import counting_bar, result, say

TeacherOpt = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL",
        help="The diffusion model to compare with; the one that the model was distilled from if "
        "left out.",
        rich_help_panel="Model",
        autocompletion=_complete.model,
    ),
]


@dataclass(frozen=True)
class OneModel:
    """Options of every such command."""

    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL[@STEPS]",
            help=f"{opt.A_MODEL}; {opt.NEWEST} if left out.",
            rich_help_panel="Model",
            autocompletion=_complete.model,
        ),
    ] = None
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,4",
            help="Network evaluations for each image, a row for each number; 1 if left out, for "
            "speed 1, 2 and 4. neighbours takes one number.",
        ),
    ] = None
    seed: opt.SeedOpt = 0
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="The report; evals/NAME-COMMAND.json, numbered, if left out.",
            rich_help_panel="Output",
        ),
    ] = None
    overwrite: opt.OverwriteOpt = False
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the report as JSON in place of the table.",
            rich_help_panel="Output",
        ),
    ] = False
    weights: opt.WeightsOpt = "ema"
    facts: opt.FactsOpt = field(default_factory=list)
    device: opt.DeviceOpt = None
    batch_size: opt.BatchSizeOpt = None


def run(
    options: OneModel, command: str, work: Callable[..., Any], *wanted: object, **more: Any
) -> None:
    """Measures and prints the table, or with --json the report.

    Args:
        options: What was typed.
        command: Its name.
        work: The workflow: (request, *wanted, say, progress) -> report.
        wanted: What it takes beside the request.
        more: Fields of the request that are not among the options.
    """
    from cmtool.workflows.evaluate import Request
    from cmtool.workflows.load import parse_facts

    o = options
    request = Request(
        metrics=(command,),
        models=() if o.model is None else (o.model,),
        steps=o.steps,
        seed=o.seed,
        out=o.out,
        overwrite=o.overwrite,
        weights=o.weights,
        facts=parse_facts(o.facts),
        device=o.device,
        batch_size=o.batch_size,
        **more,
    )
    with counting_bar("images") as progress:
        report = work(request, *wanted, say=say, progress=progress)
    for path in report.paths:
        say(f"wrote {path}")
    result(json.dumps(report.content, indent=2) if o.json else report.table)
