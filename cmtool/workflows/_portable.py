"""What may be given away: facts without the folders of this machine."""

import os
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
    """
    if isinstance(value, Mapping):
        return {key: portable(part) for key, part in value.items()}
    if isinstance(value, str) and os.path.isabs(value):
        return "/".join(Path(value).parts[-2:])
    return value


def without_folders(recipe: Recipe) -> Recipe:
    """A recipe whose data may have been told by a whole path."""
    return replace(recipe, data=replace(recipe.data, name=portable(recipe.data.name)))
