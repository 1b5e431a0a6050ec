"""A recipe is a TOML file: a section names a component or a group of settings, a key is a field.

    load(source, overrides) -> Recipe      dump(recipe) -> TOML      parse(dump(recipe)) == recipe

Types are checked, never coerced, except int -> float and array -> tuple. Every problem of a recipe
is reported at once with its place. Nothing here knows a tensor: components are made through
`registry.load`, which imports their one module.
"""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from cmtool import registry
from cmtool._toml import (
    COMPARE,
    Mismatch,
    Problems,
    checked,
    describe,
    line_numbers,
    parse_value,
    write_value,
)
from cmtool.errors import RecipeError, did_you_mean
from cmtool.settings import DataSettings as DataSettings
from cmtool.settings import DenoiserSettings as DenoiserSettings
from cmtool.settings import SamplingSettings as SamplingSettings
from cmtool.settings import TeacherSettings as TeacherSettings
from cmtool.settings import TrainSettings as TrainSettings

if TYPE_CHECKING:
    from cmtool.losses.base import Loss
    from cmtool.networks.base import Network
    from cmtool.schedules.base import Schedule
    from cmtool.solvers.base import Solver

Override = str | tuple[str, object]
"""`section.key=value` as typed after --set, or a key with a value that is parsed already."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run depends on; `network` is None where it is the teacher's."""

    network: "Network | None" = None
    schedule: "Schedule"
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)
    solver: "Solver"
    loss: "Loss"
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)


_SETTINGS: dict[str, type[Any]] = {
    "denoiser": DenoiserSettings,
    "teacher": TeacherSettings,
    "data": DataSettings,
    "train": TrainSettings,
    "sampling": SamplingSettings,
}
_KINDS = {"network": "networks", "schedule": "schedules", "solver": "solvers", "loss": "losses"}
_DEFAULT_NAMES = {"schedule": "karras", "solver": "heun"}
_SECTIONS = [f.name for f in dataclasses.fields(Recipe)]


class Header(NamedTuple):
    """The comment block that opens a recipe of ours."""

    title: str
    source: str
    command: str
    expect: str
    hardware: str


def names() -> list[str]:
    """The recipes that come with cmtool, such as `digits/edm`."""
    root = _root()
    return sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml")
    )


def load(source: str | Path, overrides: Sequence[Override] = ()) -> Recipe:
    """Reads a recipe: a file, else one of `names()`.

    Args:
        source: Path or name.
        overrides: Applied in order after the file, the last one wins.

    Raises:
        RecipeError: No such recipe, or something in it does not make sense.
    """
    text, where = _read(source)
    return parse(text, where, overrides)


def header(source: str | Path) -> Header:
    """The comment block at the top of a recipe.

    Raises:
        RecipeError: A part of it is missing.
    """
    text, where = _read(source)
    parts = {name: "" for name in Header._fields}
    current = "title"
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.lstrip("#").strip()
        first, _, rest = words.partition(" ")
        if (keyword := first.rstrip(":").lower()) in Header._fields[1:]:
            current, words = keyword, rest.strip()
        parts[current] = f"{parts[current]} {words}".strip()
    for name, text in parts.items():
        if not text:
            raise RecipeError(
                f"{where}:1: the header says nothing of '{name.capitalize()}'",
                hint="begin the file with a comment: title, Source, Command, Expect, Hardware",
            )
    return Header(**parts)


def parse(text: str, where: str, overrides: Sequence[Override] = ()) -> Recipe:
    """Makes a recipe from TOML text; `where` names it in messages."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        at = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        line = int(at[1]) if at else max(1, len(text.splitlines()))
        problem = str(error)[: at.start()] if at else str(error)
        raise RecipeError(f"{where}:{line}: not TOML: {problem}", COMPARE) from None
    typed = [_split(override) for override in overrides]
    problems = Problems(where, line_numbers(text), [key for key, _ in typed])
    for key, value in typed:
        _override(document, key, value, problems)
    for key in [key for key in document if key not in _SECTIONS]:
        if isinstance(document[key], dict):
            problems.add(key, f"unknown section{did_you_mean(key, _SECTIONS)}")
        else:
            problems.add(key, f"stands outside any section{_full_key(key)}")
    sections = {name: _section(name, document.get(name), problems) for name in _SECTIONS}
    problems.raise_if_any()
    return Recipe(**sections)


def dump(recipe: Recipe, overridden: Collection[str] = ()) -> str:
    """The fully resolved recipe as TOML.

    Args:
        recipe: What to write; fields that are None are left out.
        overridden: Keys such as `train.lr` to mark as coming from the command line.
    """
    blocks = []
    for section in _SECTIONS:
        value = getattr(recipe, section)
        if value is None:
            continue
        pairs = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if section in _KINDS:
            pairs = {"name": registry.name_of(_KINDS[section], type(value)), **pairs}
        lines = [f"[{section}]"]
        for key, item in pairs.items():
            if item is not None:
                mark = "  # --set" if f"{section}.{key}" in overridden else ""
                lines.append(f"{key} = {write_value(item)}{mark}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _root() -> Path:
    # Inside the wheel, else beside the package in a checkout.
    packed = Path(__file__).parent / "_recipes"
    return packed if packed.is_dir() else Path(__file__).parent.parent / "recipes"


def _read(source: str | Path) -> tuple[str, str]:
    """The text of a recipe and its name in messages."""
    path, where = Path(source), str(source)
    if where in (known := names()) and not path.is_file():
        path, where = _root() / f"{where}.toml", f"{where}.toml"
    try:
        return path.read_text(encoding="utf-8-sig"), where
    except FileNotFoundError:
        family = ", ".join(name for name in known if name.startswith(f"{where}/"))
        raise RecipeError(
            f"no recipe '{where}'" + (f", but {family}" if family else did_you_mean(where, known)),
            hint="cmtool --list recipes, or give the path of a .toml file",
        ) from None
    except UnicodeDecodeError:
        raise RecipeError(
            f"recipe '{where}' is not a text file in UTF-8", "give a recipe: cmtool --list recipes"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecipeError(
            f"cannot read recipe '{where}': {reason}", "give a recipe: cmtool --list recipes"
        ) from None


def _split(override: Override) -> tuple[str, object]:
    if isinstance(override, tuple):
        return override
    key, equals, raw = override.partition("=")
    if not equals:
        raise RecipeError(
            f"--set '{override}' has no value", hint="--set SECTION.KEY=VALUE, as in train.lr=1e-4"
        )
    return key.strip(), parse_value(raw.strip())


def _override(document: dict[str, Any], key: str, value: object, problems: Problems) -> None:
    section, dot, name = key.partition(".")
    if not dot:
        problems.add(key, f"expected SECTION.KEY{_full_key(key)}")
    elif section not in _SECTIONS:
        problems.add(key, f"unknown section '{section}'{did_you_mean(section, _SECTIONS)}")
    elif isinstance(table := document.setdefault(section, {}), dict):
        table[name] = value


def _full_key(name: str) -> str:
    """Suggests the settings key that ends like `name`."""
    keys = {
        f.name: f"{s}.{f.name}" for s, cls in _SETTINGS.items() for f in dataclasses.fields(cls)
    }
    for close in difflib.get_close_matches(name, keys, n=1, cutoff=0.5):
        return f" (did you mean '{keys[close]}'?)"
    return ""


def _section(section: str, table: object, problems: Problems) -> Any:
    """The settings or the component of one section; None where it is absent or wrong."""
    if table is None and section in ("network", "loss"):
        if section == "loss":
            known = ", ".join(map(repr, registry.names("losses")))
            problems.add("loss", f"missing section; its name is one of {known}")
        return None
    if not isinstance(given := {} if table is None else table, dict):
        problems.add(section, f"expected a section [{section}]")
        return None
    if section in _SETTINGS:
        return _build(section, _SETTINGS[section], given, problems)
    kind = _KINDS[section]
    name = given.get("name", _DEFAULT_NAMES.get(section))
    if not isinstance(name, str):
        known = ", ".join(map(repr, registry.names(kind)))
        problems.add(f"{section}.name", f"expected one of {known}")
        return None
    try:
        cls = registry.load(kind, name)
    except RecipeError as error:
        problems.add(f"{section}.name", error.message)
        return None
    return _build(section, cls, {k: v for k, v in given.items() if k != "name"}, problems)


def _build(section: str, cls: type[Any], given: Mapping[str, Any], problems: Problems) -> Any:
    """Makes `cls` from the keys of its section; None where a value is wrong."""
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values, refused = {}, set()
    for key, value in given.items():
        if key not in fields:
            problems.add(f"{section}.{key}", f"unknown key{did_you_mean(key, fields)}")
            continue
        try:
            values[key] = checked(value, hints[key])
        except Mismatch as mismatch:
            problems.add(f"{section}.{key}", str(mismatch))
            refused.add(key)
    needed = {
        key: hints[key]
        for key, each in fields.items()
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    }
    for key, hint in needed.items():
        if key not in given:
            problems.add(f"{section}.{key}", f"missing, needs {describe(hint)}")
    if needed.keys() - values.keys():
        return None
    try:
        return cls(**values)
    except ValueError as error:
        for line in str(error).splitlines():
            named = {key for key in fields if re.search(rf"\b{key}\b", line)}
            # A default stands in for a refused value, so a rule between several is not reliable.
            if not refused or (len(named) == 1 and not named & refused):
                problems.blame(section, sorted(named), line)
    return None
