"""`cmtool edit`: a group with a command for each editor, made of what the editor's file says."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cmtool.cli import edit_interpolate
from cmtool.cli._editing import EditOptions, HoleOptions, run
from cmtool.cli._editors import Sketch, sketches
from cmtool.cli._group import Group
from cmtool.cli._help import see_also

KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode="markdown")
    for sketch in sketches():
        group.command(sketch.name, epilog=see_also(sketch.page, "edit"))(command_of(sketch))
    edit_interpolate.register(group)
    group.callback(epilog=see_also("editing.md"))(edit)
    app.add_typer(group, name="edit")


def edit() -> None:
    """Edit pictures of any size with a model that was never trained for it.

    Examples:

    - `cmtool edit colorize in.png` : with the newest model in runs/ that suits, else a shipped one

    - `cmtool edit inpaint in.png --mask mask.png --n 4` : four ways to fill the white part

    - `cmtool edit superres clean.png --simulate --compare` : how well it works

    The result, in.colorize.png, lies beside the picture and is as large; nothing is trained for it.
    """


def command_of(sketch: Sketch) -> Callable[..., None]:
    """A command with the editor's own options and those of all editors."""
    shared = _parameters(EditOptions)
    hole = _parameters(HoleOptions) if sketch.masked else []
    own = [
        inspect.Parameter(
            option.name,
            KEYWORD_ONLY,
            default=option.default,
            annotation=Annotated[option.type, typer.Option(help=option.text)],
        )
        for option in sketch.options
    ]

    def command(**values: Any) -> None:
        options = EditOptions(**{p.name: values[p.name] for p in shared})
        where = HoleOptions(**{p.name: values[p.name] for p in hole})
        run(sketch.name, options, where, {p.name: values[p.name] for p in own})

    parameters = [shared[0], *hole, *own, *shared[1:]]
    command.__doc__ = sketch.help
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _parameters(options: type[Any]) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(f.name, KEYWORD_ONLY, default=_default(f), annotation=f.type)
        for f in dataclasses.fields(options)
    ]


def _default(of: dataclasses.Field[Any]) -> Any:
    if of.default is not dataclasses.MISSING:
        return of.default
    return inspect.Parameter.empty if of.default_factory is dataclasses.MISSING else []
