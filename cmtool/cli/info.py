"""`cmtool info`."""

import json
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from cmtool.cli._console import result
from cmtool.cli._help import see_also
from cmtool.cli._options import DataDirOpt, FactsOpt, ModelOrDataArg, OverwriteOpt

WIDTH, LONGEST = 80, 24
"""Columns of a page, and of the names in it, unless one is longer."""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=see_also("info.md", "eval"))(info)


def info(
    what: ModelOrDataArg = None,
    facts: FactsOpt = [],  # noqa: B006 - Typer copies it
    data_dir: DataDirOpt = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a report of a run: recipe, curves, samples, figures, in one page.",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: OverwriteOpt = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in place of text.", rich_help_panel="Output")
    ] = False,
) -> None:
    """Describe a model, a data set or this machine.

    Examples:

    - `cmtool info` : versions, devices, data sets, weights, runs and models found

    - `cmtool info runs/digits-cd` : architecture, noise range, classes, training

    - `cmtool info runs/digits-cd --html report.html` : the run's report, one page for a browser

    - `cmtool info cd_imagenet64_l2.pt` : the same of a published file, and what to do with it

    - `cmtool info ema_0.9999_600000.pt --as cd_imagenet64_l2` : of which more is known by name

    - `cmtool info cifar10` : number, size and classes of the images
    """
    from cmtool.workflows.info import describe, overview
    from cmtool.workflows.load import parse_facts
    from cmtool.workflows.run_report import report

    if html is not None:
        result(str(report(what, html, overwrite=overwrite)))
        return
    if what is None:
        sections = overview(data_dir)
        pages = (f"{title}\n{_page(part)}" for title, part in sections.items())
        result(json.dumps(sections, indent=2) if as_json else "\n\n".join(pages))
        return
    found = describe(what, parse_facts(facts), data_dir)
    width = max(len(key) for key in found)
    lines = (f"{key:{width}}  {value}" for key, value in found.items())
    result(json.dumps(found, indent=2) if as_json else "\n".join(lines))


def _page(facts: dict[str, str]) -> str:
    """Names and values in 80 columns, whose words (paths, for one) stay whole."""
    wrap = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False)
    names = min(max(map(len, facts)), LONGEST)
    wrap.subsequent_indent = " " * (names + 4)
    return "\n".join(wrap.fill(f"  {key:{names}}  {value}") for key, value in facts.items())
