"""The command line: parse, call one workflow, print. Nothing here imports torch before a command's
body runs."""

from typing import Annotated, Any

import typer

from cmtool import __version__
from cmtool.cli import _complete, distill, edit, eval, export, info, sample, train
from cmtool.cli._console import result
from cmtool.cli._group import Group
from cmtool.cli._help import EPILOG
from cmtool.cli._lists import KINDS, listing

ORDER = ("train", "distill", "sample", "edit", "eval", "export", "info")


class Root(Group):
    """The commands, in the order of their use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    epilog=EPILOG,
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

    At once, with models that come with cmtool:

    - `cmtool sample --n 64 --out grid.png` : draws images

    - `cmtool edit colorize in.png` : writes in.colorize.png

    A model of your own, minutes on a laptop, nothing to download:

    - `cmtool train digits/dsm` : a diffusion model, the teacher

    - `cmtool distill digits/cd --teacher runs/digits-dsm` : a one-step model of it

    - `cmtool sample runs/digits-cd --n 64 --out grid.png` : its images
    """


def main() -> None:
    """Runs the command line."""
    app()
