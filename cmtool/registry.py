"""The registry is the directory listing: a component is a file, its name is the file's.

`names` reads the folder and imports nothing, so that help, completion and suggestions cost no
torch. Packages from elsewhere add components through entry points in the groups
`cmtool.networks`, `cmtool.losses`, ...; a built-in name always wins.
"""

import pkgutil
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from cmtool.errors import RecipeError, did_you_mean

KINDS = {
    "networks": "Network",
    "schedules": "Schedule",
    "solvers": "Solver",
    "losses": "Loss",
    "editors": "Editor",
    "formats": "Format",
}
"""Kind, which is also the folder, to the class of its `base.py` that its components derive from."""


def names(kind: str) -> list[str]:
    """The built-in components of a kind, in alphabetical order."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent / kind)])
    return sorted(
        module.name.replace("_", "-")
        for module in modules
        if not module.name.startswith("_") and module.name != "base"
    )


def load(kind: str, name: str) -> type[Any]:
    """The class of a component; imports its module and no other.

    Raises:
        RecipeError: Nothing has that name.
        TypeError: The module does not define exactly one component, which is its author's mistake.
    """
    if name in names(kind):
        return _component(kind, import_module(f"cmtool.{kind}.{name.replace('-', '_')}"))
    for entry in entry_points(group=f"cmtool.{kind}", name=name):
        return _checked(kind, entry.load())
    noun = KINDS[kind].lower()
    raise RecipeError(
        f"unknown {noun} '{name}'{did_you_mean(name, names(kind))}", hint=f"cmtool --list {kind}"
    )


def name_of(kind: str, component: type[Any]) -> str:
    """The name under which `load` finds a class."""
    package, _, module = component.__module__.rpartition(".")
    if package == f"cmtool.{kind}":
        return module.replace("_", "-")
    for entry in entry_points(group=f"cmtool.{kind}"):
        if entry.value == f"{component.__module__}:{component.__qualname__}":
            return entry.name
    raise TypeError(f"{component.__module__}.{component.__qualname__} is not registered in {kind}")


def _base(kind: str) -> type[Any]:
    base: type[Any] = getattr(import_module(f"cmtool.{kind}.base"), KINDS[kind])
    return base


def _component(kind: str, module: ModuleType) -> type[Any]:
    base = _base(kind)
    found = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    if len(found) != 1:
        raise TypeError(
            f"{module.__name__} must define one public {KINDS[kind]}, found {len(found)}"
        )
    return found[0]


def _checked(kind: str, value: object) -> type[Any]:
    if not (isinstance(value, type) and issubclass(value, _base(kind))):
        raise TypeError(f"the entry point gives {value!r}, which is not a {KINDS[kind]}")
    return value
