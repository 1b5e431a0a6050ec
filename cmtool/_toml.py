"""What the library's TOML reader lacks: line numbers, types, a writer and a list of problems."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from cmtool.errors import RecipeError, did_you_mean

COMPARE = "mend it; cmtool train digits/dsm --dry-run prints a whole recipe to compare with"
DROP = "the same command without that --set, and with --dry-run, prints every key"
"""What to do about a mistake in a file, and about one on the command line."""

_ESCAPES = {chr(code): f"\\u{code:04X}" for code in (*range(32), 127)} | {
    '"': '\\"',
    "\\": "\\\\",
}


class Mismatch(Exception):
    """A value is not of the type that a field asks for; the text says so."""


class Problems:
    """Collects what is wrong with a recipe, each with its place, and raises it all at once."""

    def __init__(self, where: str, lines: Mapping[str, int], overridden: Sequence[str]) -> None:
        self._where = where
        self._lines = lines
        self._overridden = overridden
        self._found: list[tuple[bool, int, str]] = []

    def add(self, key: str, problem: str) -> None:
        """Files a problem with `key`, a section or `section.key`."""
        if key in self._overridden:
            place, order = "--set ", self._overridden.index(key)
        else:
            order = self._lines.get(key, self._lines.get(key.partition(".")[0], 0))
            place = f"{self._where}:{order}: " if order else f"{self._where}: "
        self._found.append((key in self._overridden, order, f"{place}{_plain(key)}: {problem}"))

    def blame(self, section: str, keys: Sequence[str], problem: str) -> None:
        """Files a problem between values at the overridden one, the only one, or the section."""
        full = [f"{section}.{key}" for key in keys]
        guilty = [key for key in full if key in self._overridden]
        if not guilty and len(full) == 1 and full[0] in self._lines:
            guilty = full
        self.add(guilty[0] if guilty else section, problem)

    def raise_if_any(self) -> None:
        """Raises one RecipeError for everything that was added, by line, overrides last."""
        if self._found:
            count = len(self._found)
            heading = f"{count} problem{'s' * (count > 1)} in the recipe"
            found = sorted(self._found, key=lambda item: item[:2])
            hint = DROP if all(typed for typed, _, _ in found) else COMPARE
            raise RecipeError("\n  ".join([heading, *(text for _, _, text in found)]), hint)


def line_numbers(text: str) -> dict[str, int]:
    """The line, from 1, of each `section` and `section.key`.

    Example:
        >>> line_numbers("[train]\\nlr = 1e-4")
        {'train': 1, 'train.lr': 2}
    """
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[{1,2}([\w.\s\"'-]+)\]{1,2}\s*(#.*)?$", line):
            table = _dotted(header[1])
            found.setdefault(table, number)
        elif pair := re.match(r"\s*([\w.\"'-][\w.\s\"'-]*?)\s*=", line):
            key = _dotted(pair[1])
            found.setdefault(f"{table}.{key}" if table else key, number)
            # A dotted key outside any table names its section too.
            found.setdefault(table or key.partition(".")[0], number)
    return found


def parse_value(raw: str) -> object:
    """A value typed on the command line: TOML where it is TOML, else the string itself.

    Example:
        >>> parse_value("[1, 2.5]"), parse_value("heun")
        ([1, 2.5], 'heun')
    """
    try:
        table = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return raw
    return table["value"] if list(table) == ["value"] else raw


def checked(value: object, hint: Any) -> Any:
    """`value` if it is of the type `hint`; whole numbers serve as floats, lists become tuples.

    Raises:
        Mismatch: It is not.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _one_of(value, args)
    if origin is Literal:
        if any(type(value) is type(option) and value == option for option in args):
            return value
        close = did_you_mean(value, map(str, args)) if isinstance(value, str) else ""
        raise Mismatch(f"expected {describe(hint)}, got {_show(value)}{close}")
    if origin is tuple and isinstance(value, list | tuple):
        hints = [args[0]] * len(value) if args[1:] == (...,) else list(args)
        if len(hints) == len(value):
            return tuple(checked(item, each) for item, each in zip(value, hints, strict=True))
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _float(value)
    elif hint in (bool, int, str) and type(value) is hint and _fits(value):
        return value
    raise Mismatch(f"expected {describe(hint)}, got {_show(value)}")


def describe(hint: Any) -> str:
    """A type in words, for messages."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple:
        number = "" if args[1:] == (...,) else f"{len(args)} "
        return f"list of {number}{describe(args[0])}"
    return "true or false" if hint is bool else str(getattr(hint, "__name__", hint))


def write_value(value: object) -> str:
    """A bool, number, string or tuple of them as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return f'"{"".join(_ESCAPES.get(c, c) for c in value)}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(write_value, value))}]"
    raise TypeError(f"TOML has no form for {value!r}")


def _one_of(value: object, options: tuple[Any, ...]) -> Any:
    if value is None and NoneType in options:
        return None
    needed = [option for option in options if option is not NoneType]
    if len(needed) == 1:
        return checked(value, needed[0])
    for option in needed:
        try:
            return checked(value, option)
        except Mismatch:
            continue
    raise Mismatch(f"expected {' or '.join(map(describe, needed))}, got {_show(value)}")


def _float(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise Mismatch(f"expected float, got {_show(value)}") from None
    if number != number:
        # nan compares unequal to itself, so that no range check and no round trip would hold.
        raise Mismatch("expected float, got nan")
    return number


def _fits(value: object) -> bool:
    if isinstance(value, str):
        # A file name that is not UTF-8 arrives with lone surrogates, which no file can hold.
        return not any("\ud800" <= c <= "\udfff" for c in value)
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    try:
        text = repr(value) if isinstance(value, str | list | tuple) else str(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    text = {"True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(key: str) -> str:
    return key if key.isprintable() else repr(key)[1:-1]


def _dotted(key: str) -> str:
    return ".".join(part.strip(" \t\"'") for part in key.split("."))
