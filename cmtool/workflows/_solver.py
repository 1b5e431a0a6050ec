"""Solvers as typed, `--solver heun` or with fields, `--solver deis:order=2`."""

import dataclasses
from typing import Any, get_type_hints

from cmtool import registry
from cmtool._toml import Mismatch, checked, parse_value
from cmtool.errors import RecipeError, did_you_mean
from cmtool.solvers.base import SET_BY_PATH, Solver

OTHER_NAMES = {
    "ddim": "euler",
    "ddpm": "ancestral",
    "dpm-solver-2": "midpoint",
    "dpm-solver++": "dpmpp-2m",
    "edm": "heun",
}
"""What papers call a solver, where no name here is like it."""


def parse_solver(text: str) -> Solver:
    """`NAME` or `NAME:FIELD=VALUE,...` to a solver.

    Raises:
        RecipeError: There is no such solver, or it has no such fields.

    Example:
        >>> parse_solver("deis:order=2")
        DEIS(order=2)
    """
    name, _, rest = text.partition(":")
    if name.lower() in OTHER_NAMES and name not in registry.names("solvers"):
        other = OTHER_NAMES[name.lower()]
        raise RecipeError(f"solver '{name}' is called '{other}' here", f"--solver {other}")
    cls = registry.load("solvers", name)
    hints, known = get_type_hints(cls), _free(cls)
    values: dict[str, object] = {}
    for part in rest.split(",") if rest else []:
        key, _, raw = part.strip().partition("=")
        if key not in known:
            raise RecipeError(
                f"--solver {text}: '{name}' has no field '{key}'{did_you_mean(key, known)}",
                f"its fields: {', '.join(known)}" if known else f"--solver {name}",
            )
        try:
            values[key] = checked(parse_value(raw), hints[key])
        except Mismatch as mismatch:
            raise RecipeError(f"--solver {text}: {key}: {mismatch}", f"--solver {name}") from None
    try:
        solver: Solver = cls(**values)
    except ValueError as error:
        raise RecipeError(f"--solver {text}: {error}", f"--solver {name}") from None
    return solver


def typed(solver: Solver) -> str:
    """A solver as one would type it; fields at their defaults are left out.

    Example:
        >>> typed(parse_solver("churn:s_churn=80"))
        'churn:s_churn=80.0'
    """
    name, defaults = registry.name_of("solvers", type(solver)), _free(type(solver))
    changed = [
        f"{key}={getattr(solver, key)}"
        for key, default in defaults.items()
        if getattr(solver, key) != default
    ]
    return ":".join([name, ",".join(changed)] if changed else [name])


def _free(cls: type[Any]) -> dict[str, object]:
    """Fields that no path sets, with their defaults."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {f.name: f.default for f in fields if SET_BY_PATH not in f.metadata}
