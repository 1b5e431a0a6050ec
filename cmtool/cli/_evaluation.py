"""Options that the commands of `cmtool eval` share."""

from pathlib import Path
from typing import Annotated

import typer

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
        metavar="NAME|FOLDER|ZIP",
        help="What the images are held against; the model's own training set if left out.",
        rich_help_panel="Data",
    ),
]
DataDirOpt = Annotated[
    Path | None,
    typer.Option(help="Where data sets lie, before $CMTOOL_DATA.", rich_help_panel="Data"),
]
CountOpt = Annotated[int, typer.Option("--n", help="Images 0 .. N-1 of the seed.")]
