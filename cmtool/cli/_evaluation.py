"""What the commands of `cmtool eval` share: their options, and the call of the workflow."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cmtool.cli import _options as opt
from cmtool.cli._console import counting_bar, result, say

EvaluatedOpt = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A run, a .safetensors or a .pt file; the newest one-step model in runs/ if left out.",
        rich_help_panel="Model",
    ),
]
ReferenceOpt = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|FOLDER|ZIP|NPZ",
        help="What the images are held against: images or a statistics file; the model's own "
        "training set if left out.",
        rich_help_panel="Data",
    ),
]
DataDirOpt = Annotated[
    Path | None,
    typer.Option(help="Where data sets lie, before $CMTOOL_DATA.", rich_help_panel="Data"),
]
CountOpt = Annotated[int, typer.Option("--n", help="Images 0 .. N-1 of the seed.")]
FeaturesOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE", help="In place of the protocol's: lite0, pixel, inception, a network."
    ),
]
ProtocolOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="cm-cifar10, adm, edm or clean; that of the data set if left out.",
    ),
]


def _output(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Output", **more)


@dataclass(frozen=True)
class EvalOptions:
    """Options of every command that compares images with a reference."""

    model: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL[@STEPS]",
            help="A run or a model's file, one or more; the newest one-step model in runs/ if left "
            "out.",
            rich_help_panel="Model",
        ),
    ] = field(default_factory=list)
    images: Annotated[
        list[str],
        typer.Option(
            metavar="FOLDER|ZIP|NPZ",
            help="Images in place of a model, one or more.",
            rich_help_panel="Data",
        ),
    ] = field(default_factory=list)
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,4",
            help="Network evaluations an image, a row for each; else 1, or 35 for a diffusion "
            "model.",
        ),
    ] = None
    times: Annotated[
        list[str],
        typer.Option(metavar="80,0.8", help="Noise levels instead; again for another row."),
    ] = field(default_factory=list)
    solver: opt.SolverOpt = None
    guidance: opt.GuidanceOpt = 1.0
    n: Annotated[
        int | None, typer.Option("--n", help="Images a row; 50,000, or all of --images.")
    ] = None
    seed: opt.SeedOpt = 0
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,2", help="Several seeds: mean and minimum.")
    ] = None
    repeat: Annotated[int, typer.Option(help="So many seeds, from --seed on.")] = 1
    protocol: ProtocolOpt = None
    bootstrap: Annotated[
        int, typer.Option(help="Repeats for the 95 % interval; 0 leaves it out.")
    ] = 20
    data: ReferenceOpt = None
    data_dir: DataDirOpt = None
    out: Annotated[
        Path | None,
        _output("Report; evals/NAME-COMMAND.json, numbered, if left out.", metavar="FILE.json"),
    ] = None
    overwrite: opt.OverwriteOpt = False
    json: Annotated[bool, _output("Print the report as JSON, no table.", "--json")] = False
    save_samples: Annotated[
        Path | None, _output("Keep the images, with several rows in sub-folders.", metavar="FOLDER")
    ] = None
    weights: opt.WeightsOpt = "ema"
    facts: opt.FactsOpt = field(default_factory=list)
    device: opt.DeviceOpt = None
    batch_size: opt.BatchSizeOpt = None


def run(options: EvalOptions, metrics: Sequence[str], features: str | None = None) -> None:
    """Measures and prints the table, or with --json the report."""
    from cmtool.workflows.evaluate import Request, evaluate
    from cmtool.workflows.load import parse_facts

    o = options
    request = Request(
        metrics=tuple(metrics),
        models=tuple(o.model),
        images=tuple(o.images),
        steps=o.steps,
        times=tuple(o.times),
        solver=o.solver,
        guidance=o.guidance,
        n=o.n,
        seed=o.seed,
        seeds=o.seeds,
        repeat=o.repeat,
        protocol=o.protocol,
        features=features,
        bootstrap=o.bootstrap,
        data=o.data,
        data_dir=o.data_dir,
        out=o.out,
        overwrite=o.overwrite,
        save_samples=o.save_samples,
        weights=o.weights,
        facts=parse_facts(o.facts),
        device=o.device,
        batch_size=o.batch_size,
    )
    with counting_bar("images") as progress:
        report = evaluate(request, say=say, progress=progress)
    for path in report.paths:
        say(f"wrote {path}")
    result(json.dumps(report.content, indent=2) if o.json else report.table())
