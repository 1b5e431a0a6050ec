"""cmtool: consistency models, from a teacher to one-step images.

    import cmtool
    model = cmtool.load("runs/digits-cd")
    images = cmtool.sample(model, n=64)          # (64, C, H, W) in [-1, 1]
    picture = cmtool.edit(model, "inpaint", picture, mask=mask)

Importing this package imports no torch; the first use of one of these does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmtool.editors._physics import from_physics
    from cmtool.workflows.edit import edit
    from cmtool.workflows.load import load
    from cmtool.workflows.sample import sample

__all__ = ["__version__", "edit", "from_physics", "load", "sample"]

__version__ = "0.1.0"

_HOMES = {
    "edit": "cmtool.workflows.edit",
    "from_physics": "cmtool.editors._physics",
    "load": "cmtool.workflows.load",
    "sample": "cmtool.workflows.sample",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cmtool' has no attribute '{name}'")
