"""What the commands of `cmtool eval` share: their options, and the call of the workflow."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cmtool.cli import _complete
from cmtool.cli import _options as opt
from cmtool.cli._console import counting_bar, result, say

EvaluatedOpt = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help=f"{opt.A_MODEL}; {opt.NEWEST} if left out.",
        rich_help_panel="Model",
        autocompletion=_complete.model,
    ),
]
ReferenceOpt = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|FOLDER|ZIP|NPZ",
        help="What the images are held against: a data set's name, images, or a file of "
        "statistics; the model's own training set if left out.",
        rich_help_panel="Data",
        autocompletion=_complete.dataset,
    ),
]
DataDirOpt = opt.DataDirOpt
CountOpt = Annotated[int, typer.Option("--n", help="Number of images, 0 .. N-1 of the seed.")]
FeaturesOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Network whose features are compared: pixel, lite0, inception or a file (.pt, .ts, "
        ".pt2); inception if left out, pixel for fd.",
        autocompletion=_complete.features,
    ),
]
ProtocolOpt = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How images are rounded, resized and counted: cm-cifar10, adm, edm or clean; that of "
        "the data set if left out.",
        autocompletion=_complete.these(*_complete.PROTOCOLS),
    ),
]
MetricOpt = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What to make small: fid, kid, fd-pixel, fd-lite0, kid-lite0, or fd-FILE for a "
        "network of your own.",
        autocompletion=_complete.these(*_complete.METRICS),
    ),
]
SaveOpt = Annotated[
    bool,
    typer.Option(
        "--save",
        help="Store the levels in the model, whose --steps then takes them.",
        rich_help_panel="Output",
    ),
]
SearchOutOpt = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FOLDER",
        help="Where search.json and search.png go; evals/MODEL-search if left out.",
        rich_help_panel="Output",
    ),
]
AnewOpt = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Begin anew; without it the search in --out goes on.",
        rich_help_panel="Output",
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
            help=f"{opt.A_MODEL}, again for more rows; {opt.NEWEST} if left out.",
            rich_help_panel="Model",
            autocompletion=_complete.model,
        ),
    ] = field(default_factory=list)
    images: Annotated[
        list[str],
        typer.Option(
            metavar="FOLDER|ZIP|NPZ",
            help="Images in place of a model, again for more rows; goes with --data.",
            rich_help_panel="Data",
        ),
    ] = field(default_factory=list)
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,4",
            help="Network evaluations for each image, a row for each number; if left out 1, or 35 "
            "for a diffusion model.",
        ),
    ] = None
    times: Annotated[
        list[str],
        typer.Option(
            metavar="80,0.8",
            help="Decreasing noise levels in place of --steps, again for more rows.",
        ),
    ] = field(default_factory=list)
    solver: opt.SolverOpt = None
    guidance: opt.GuidanceOpt = 1.0
    n: Annotated[
        int | None,
        typer.Option("--n", help="Images for each row; 50,000, or all of --images, if left out."),
    ] = None
    seed: opt.SeedOpt = 0
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="0,1,2",
            help="Several seeds, with mean and minimum; in place of --seed and --repeat.",
        ),
    ] = None
    repeat: Annotated[
        int, typer.Option(help="Number of seeds, from --seed on, with mean and minimum.")
    ] = 1
    protocol: ProtocolOpt = None
    bootstrap: Annotated[
        int,
        typer.Option(help="Repeats for the 95 % interval of a Frechet distance; 0 leaves it out."),
    ] = 20
    data: ReferenceOpt = None
    data_dir: DataDirOpt = None
    out: Annotated[
        Path | None,
        _output(
            "The report, its picture beside it; evals/NAME-COMMAND.json, numbered, if left out.",
            metavar="FILE.json",
        ),
    ] = None
    overwrite: opt.OverwriteOpt = False
    json: Annotated[bool, _output("Print the report as JSON in place of the table.", "--json")] = (
        False
    )
    save_samples: Annotated[
        Path | None,
        _output(
            "Keep the images too, those of several rows in sub-folders.", metavar="FOLDER|FILE.npz"
        ),
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
