"""`cmtool eval`: a group of commands, one for each kind of figure."""

import typer

from cmtool.cli import (
    eval_all,
    eval_classes,
    eval_consistency,
    eval_fd,
    eval_fid,
    eval_is,
    eval_kid,
    eval_lpips,
    eval_neighbours,
    eval_pr,
    eval_search,
    eval_speed,
)
from cmtool.cli._group import Group
from cmtool.cli._help import see_also

PAGES = {
    "eval.md": (eval_fid, eval_kid, eval_is, eval_pr, eval_fd, eval_all),
    "beyond-fid.md": (eval_consistency, eval_lpips, eval_neighbours, eval_classes, eval_speed),
    "eval-search.md": (eval_search,),
}
"""The commands, by their page in docs/."""


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode="markdown")
    for page, modules in PAGES.items():
        for module in modules:
            module.register(group)
            group.registered_commands[-1].epilog = see_also(page, "eval")
    group.callback(epilog=see_also("eval.md", "sample"))(evaluate)
    app.add_typer(group, name="eval")


def evaluate() -> None:
    """Measure how good a model's images are, or search the noise levels that make them better.

    Examples:

    - `cmtool eval fid --steps 1` : FID of the newest model against its own training images

    - `cmtool eval fd --features lite0 --steps 1,2` : offline, in another network's features

    - `cmtool eval search --model runs/digits-cd --steps 2 --save` : better levels for two steps

    Prints a table and writes it as evals/NAME-COMMAND.json, with a picture of some figures.
    """
