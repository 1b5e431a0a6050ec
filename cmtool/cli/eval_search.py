"""`cmtool eval search`."""

from typing import Annotated

import typer

from cmtool.cli import _evaluation as ev
from cmtool.cli._console import counting_bar, result, say
from cmtool.cli._options import BatchSizeOpt, DeviceOpt, FactsOpt, SeedOpt, WeightsOpt


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(search)


def search(
    model: ev.EvaluatedOpt = None,
    steps: Annotated[
        int, typer.Option(help="Number of noise levels, of which the first is the largest.")
    ] = 2,
    metric: ev.MetricOpt = "fd-pixel",
    tol: Annotated[
        float, typer.Option(help="How exactly a level is found: 0.05 is 5 % of it.")
    ] = 0.05,
    budget: Annotated[
        int | None, typer.Option(help="Most sets of images drawn in this call; again goes on.")
    ] = None,
    n: ev.CountOpt = 10_000,
    seed: SeedOpt = 0,
    protocol: ev.ProtocolOpt = None,
    data: ev.ReferenceOpt = None,
    data_dir: ev.DataDirOpt = None,
    save: ev.SaveOpt = False,
    out: ev.SearchOutOpt = None,
    overwrite: ev.AnewOpt = False,
    weights: WeightsOpt = "ema",
    facts: FactsOpt = [],  # noqa: B006 - Typer copies it
    device: DeviceOpt = None,
    batch_size: BatchSizeOpt = None,
) -> None:
    """Search the noise levels at which a consistency model's few steps give the best images.

    Examples:

    - `cmtool eval search --model runs/digits-cd --steps 2` : a table, search.json and search.png

    - `cmtool eval search --model runs/digits-cd --steps 3 --save` : levels for --steps 3 from now

    - `cmtool eval search --model runs/cifar10-cd --metric fd-lite0 --n 5000` : by what they show

    - `cmtool eval search --model runs/digits-cd --budget 5` : five evaluations; again goes on
    """
    from cmtool.workflows.load import parse_facts
    from cmtool.workflows.search import Request, Wanted, search

    wanted = Wanted(steps, metric, tol, budget, save, out, overwrite)
    request = Request(
        models=() if model is None else (str(model),),
        data=data,
        data_dir=data_dir,
        n=n,
        seed=seed,
        protocol=protocol,
        weights=weights,
        facts=parse_facts(facts),
        device=device,
        batch_size=batch_size,
    )
    with counting_bar("images") as progress:
        report = search(request, wanted, say=say, progress=progress)
    for line in report.notes():
        say(line)
    result("\n".join([report.table(), *map(str, report.paths)]))
