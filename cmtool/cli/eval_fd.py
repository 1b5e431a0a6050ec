"""`cmtool eval fd`."""

from typing import Annotated

import typer

from cmtool.cli._console import counting_bar, result, say
from cmtool.cli._evaluation import CountOpt, DataDirOpt, EvaluatedOpt, ReferenceOpt
from cmtool.cli._options import (
    BatchSizeOpt,
    DeviceOpt,
    FactsOpt,
    SeedOpt,
    StepsOpt,
    TimesOpt,
    WeightsOpt,
)


def register(group: typer.Typer) -> None:
    """Adds the command."""
    group.command()(fd)


def fd(
    model: EvaluatedOpt = None,
    steps: StepsOpt = None,
    times: TimesOpt = None,
    features: Annotated[str, typer.Option(help="Where to compare: pixel.")] = "pixel",
    n: CountOpt = 10_000,
    seed: SeedOpt = 0,
    data: ReferenceOpt = None,
    data_dir: DataDirOpt = None,
    weights: WeightsOpt = "ema",
    facts: FactsOpt = [],  # noqa: B006 - Typer copies it
    device: DeviceOpt = None,
    batch_size: BatchSizeOpt = None,
) -> None:
    """Print the Frechet distance between a model's images and a data set's; 0 is best.

    Examples:

    - `cmtool eval fd --model runs/digits-cd --steps 2` : FD-pixel, against the training images

    - `cmtool eval fd --model runs/digits-cd --times 80,0.8 --seed 1` : other levels, fresh noise

    - `cmtool eval fd --model runs/digits-dsm --n 2000` : the teacher
    """
    from cmtool.workflows.evaluate import Request, frechet
    from cmtool.workflows.load import parse_facts

    known = parse_facts(facts)
    request = Request(model, data, data_dir, n, seed, weights, known, device, batch_size)
    with counting_bar("images") as progress:
        score = frechet(request, features, steps, times, say=say, progress=progress)
    result(str(score))
