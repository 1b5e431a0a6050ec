"""`cmtool eval`: a group of commands, one for each kind of figure."""

import typer

from cmtool.cli import eval_fd, eval_search
from cmtool.cli._group import Group


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode="markdown")
    for module in (eval_fd, eval_search):
        module.register(group)
    group.callback()(evaluate)
    app.add_typer(group, name="eval")


def evaluate() -> None:
    """Measure how good a model's images are, or search the noise levels that make them better.

    Examples:

    - `cmtool eval fd --steps 1` : distance to the training images, of the newest model

    - `cmtool eval search --model runs/digits-cd --steps 2 --save` : better levels for two steps
    """
