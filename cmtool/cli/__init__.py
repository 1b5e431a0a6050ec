"""The command line: parse, call one workflow, print. Nothing here imports torch before a command's
body runs."""

from typing import Annotated

import typer

from cmtool import __version__
from cmtool.cli import _complete, distill, edit, eval, export, info, sample, train
from cmtool.cli._console import result
from cmtool.cli._group import Group
from cmtool.cli._lists import KINDS, listing

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (train, distill, sample, edit, eval, export, info):
    module.register(app)


def _version(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        result(f"cmtool {__version__}")
        raise typer.Exit


def _list(ctx: typer.Context, kind: str | None) -> None:
    if kind is not None and not ctx.resilient_parsing:
        result(listing(kind))
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    kind: Annotated[
        str | None,
        typer.Option(
            "--list",
            metavar="KIND",
            callback=_list,
            is_eager=True,
            help=f"List what there is: {', '.join(KINDS)}.",
            autocompletion=_complete.these(*KINDS),
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Consistency models: networks that turn noise into an image in one step.

    A first run, a few minutes on a laptop, nothing to download:

    - `cmtool train digits/dsm` trains a diffusion model, the teacher

    - `cmtool distill digits/cd --teacher runs/digits-dsm` makes a one-step model of it

    - `cmtool sample runs/digits-cd --n 64 --out grid.png` draws images
    """


def main() -> None:
    """Runs the command line."""
    app()
