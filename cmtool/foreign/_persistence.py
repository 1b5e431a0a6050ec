"""NVIDIA's pickled modules: a class's name, its source text, and what the object held.

The source text is not looked at: the state tells all that is needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cmtool.errors import CheckpointError
from cmtool.pickled import Call

_MAX_DEPTH = 16


@dataclass(frozen=True)
class Module:
    """A module: its class's name, and its attributes as they were pickled."""

    kind: str
    fields: dict[str, Any]

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """An attribute, or an argument that it was made with; a whole number stays an int.

        Raises:
            CheckpointError: It is missing, no number, or not within low .. high.
        """
        value: Any = self.fields.get(name, self.arguments.get(name, default))
        # A comparison with nan is false.
        if type(value) not in (int, float) or not low <= value <= high:
            raise CheckpointError(
                f"'{self.kind}' needs {low} <= {name} <= {high}, the file tells {_shown(value)}"
            )
        return float(value) if isinstance(value, float) else int(value)

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number; see `number`."""
        value = self.number(name, low, high, default)
        if not isinstance(value, int):
            raise CheckpointError(f"'{self.kind}' needs a whole {name}, the file tells {value}")
        return value

    def wholes(self, name: str, low: int, high: int, default: Sequence[int]) -> tuple[int, ...]:
        """A list of at most eight whole numbers among the arguments; see `number`."""
        value = self.arguments.get(name, default)
        if (
            not isinstance(value, list | tuple)
            or len(value) > 8
            or not all(type(n) is int and low <= n <= high for n in value)
        ):
            raise CheckpointError(
                f"'{self.kind}' needs at most 8 whole numbers {low} .. {high} for {name}, "
                f"the file tells {_shown(value)}"
            )
        return tuple(value)

    @property
    def arguments(self) -> dict[str, Any]:
        """What it was made with, by keyword."""
        found = self.fields.get("_init_kwargs")
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            return {}
        return found

    def plain_arguments(self) -> dict[str, Any]:
        """The arguments, made sure to be texts, numbers, or short lists of numbers.

        Raises:
            CheckpointError: One is something else.
        """
        plain = (str, int, float, bool, type(None))
        for name, value in self.arguments.items():
            parts = value if isinstance(value, list | tuple) else (value,)
            texts = [part for part in (name, *parts[:8]) if isinstance(part, str)]
            if (
                len(parts) > 8
                or not all(type(part) in plain for part in parts)
                or any(len(text) > 100 for text in texts)
            ):
                raise CheckpointError(f"'{self.kind}' was made with {_shown(value)}")
        return self.arguments

    def child(self, name: str) -> "Module":
        """A module inside of it.

        Raises:
            CheckpointError: There is none.
        """
        inside = self.fields.get("_modules")
        found = module(inside.get(name)) if isinstance(inside, dict) else None
        if found is None:
            raise CheckpointError(f"'{self.kind}' has no module '{name}'")
        return found


def module(value: Any) -> Module | None:
    """The module that a value stands for; None if it stands for none."""
    if not isinstance(value, Call):
        return None
    kind: Any
    fields: Any
    if value.path.startswith("torch.nn.modules."):
        kind, fields = value.path.rpartition(".")[2], value.state
    elif value.path == "torch_utils.persistence._reconstruct_persistent_obj":
        meta = value.args[0] if value.args else None
        if not isinstance(meta, dict):
            return None
        kind, fields = meta.get("class_name"), meta.get("state")
    else:
        return None
    if not isinstance(kind, str) or not kind.isidentifier() or len(kind) > 100:
        return None
    return Module(kind, fields) if isinstance(fields, dict) else None


def tensors(root: Module) -> dict[str, Any]:
    """What stands for the parameters and buffers of a tree of modules, by dotted name.

    Raises:
        CheckpointError: It is no tree, or one too deep.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting = [("", 0, root)]
    while waiting:
        prefix, depth, here = waiting.pop()
        if depth > _MAX_DEPTH or id(here.fields) in seen:
            raise CheckpointError(f"the modules at '{prefix[:100]}' are nested without an end")
        seen.add(id(here.fields))
        for name, value in _named(here, "_parameters") + _named(here, "_buffers"):
            found[prefix + name] = value
        for name, value in _named(here, "_modules"):
            inside = module(value)
            if inside is None:
                raise CheckpointError(f"'{prefix[:100]}{name}' is no module")
            waiting.append((f"{prefix}{name}.", depth + 1, inside))
    return found


def _named(here: Module, group: str) -> list[tuple[str, Any]]:
    """The parts of one group that are not None."""
    parts = here.fields.get(group)
    if not isinstance(parts, dict):
        raise CheckpointError(f"'{here.kind}' is no module: it has no '{group}'")
    if not all(isinstance(name, str) and name.isprintable() and len(name) < 100 for name in parts):
        raise CheckpointError(f"'{here.kind}' has parts in '{group}' without a name")
    return [(name, value) for name, value in parts.items() if value is not None]


def _shown(value: Any) -> str:
    """A value in words, shortened; never one that contains others, which may be endless."""
    if value is None:
        return "nothing"
    if type(value) is str:
        return f"'{value[:50]}'"
    if type(value) in (int, float, bool) and (not isinstance(value, int) or value < 10**20):
        return str(value) if not isinstance(value, float) or math.isfinite(value) else repr(value)
    return f"a {type(value).__name__}"
