"""What may be given away: facts without the folders of this machine."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmtool.recipe import Recipe


def portable(value: Any) -> Any:
    """Facts in which of a whole path only the last two parts remain.

    Example:
        >>> portable({"teacher": "/home/me/runs/dm", "seed": 7, "data": "photos/"})
        {'teacher': 'runs/dm', 'seed': 7, 'data': 'photos/'}
        >>> portable(["cmtool", "train", "--set", "data.name=/home/me/my/cats"])
        ['cmtool', 'train', '--set', 'data.name=my/cats']
    """
    if isinstance(value, Mapping):
        return {key: portable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [portable(part) for part in value]
    if isinstance(value, str) and os.path.isabs(value):
        return "/".join(Path(value).parts[-2:])
    if isinstance(value, str) and "=" in value:
        option, equals, path = value.partition("=")
        return f"{option}{equals}{portable(path)}"
    return value


def in_words(value: object) -> str:
    """A fact as text; a command's words as they are typed.

    Example:
        >>> in_words({"name": "x", "command": ["cmtool", "train", "--data", "my photos"]})
        "name: x, command: cmtool train --data 'my photos'"
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {in_words(part)}" for key, part in value.items())
    return shlex.join(map(str, value)) if isinstance(value, list) else str(value)


def without_folders(recipe: Recipe) -> Recipe:
    """A recipe whose data may have been told by a whole path."""
    return replace(recipe, data=replace(recipe.data, name=portable(recipe.data.name)))
