"""What a user can get wrong, one class per layer of cause. Everything else that is raised is a bug
of ours."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

Say = Callable[[str], None]
"""Tells the user a line: an assumption, a choice, what was passed over."""


def silent(message: str) -> None:
    """Tells nobody."""


class CmtoolError(Exception):
    """A mistake that the user can mend.

    Args:
        message: What is wrong, with the value and the place: lower case, no full stop.
        hint: The next thing to type or to do.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RecipeError(CmtoolError):
    """A recipe, an override or an option does not make sense."""


class CheckpointError(CmtoolError):
    """A model cannot be read, written or used for what was asked."""


class DataError(CmtoolError):
    """A data set or an image cannot be read."""


class DeviceError(CmtoolError):
    """The machine cannot do what was asked."""


class TrainingError(CmtoolError):
    """A run that started well has failed."""

    exit_code = 1


class ExportError(CmtoolError):
    """An export does not compute what its model computes."""

    exit_code = 1


class Stopped(CmtoolError):
    """A signal ended the run after everything was saved; exits with 128 + the signal's number."""

    def __init__(self, message: str, hint: str | None, signum: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signum


def foreign_name(name: str, most: int = 80) -> str:
    r"""A name out of somebody's file, for a message: in one line, without what steers a terminal.

    Example:
        >>> print(foreign_name("red \x1b[31m \n"), foreign_name("x" * 100, most=3))
        red \x1b[31m \n xxx...
    """
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name[: most + 1])
    return escaped if len(escaped) <= most else f"{escaped[:most]}..."


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A suggestion to append to a message, or nothing.

    Example:
        >>> did_you_mean("icm", ["cd", "ict"])
        " (did you mean 'ict'?)"
    """
    close = get_close_matches(word, list(options), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
