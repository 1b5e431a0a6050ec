"""The command group: a user's mistake is one message and an exit code, never a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from cmtool.cli._console import error
from cmtool.errors import CmtoolError
from cmtool.files import why

TYPED = "cmtool.typed"
"""Key of a context's `meta`: the words after `cmtool`."""
NO_MEMORY = ("out of memory", "not enough memory", "allocate memory", "can't allocate")
"""How torch says that memory is used up."""


class Group(TyperGroup):
    """Prints `CmtoolError`s and exits with their code; `--debug` shows where they came from."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the options before the command's name; `--list` acts here."""
        ctx.meta.setdefault(TYPED, tuple(args))
        with _told(debug="--debug" in args):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command by its name; a file in its place is told apart from a wrong name."""
        if args[0] not in self.commands and Path(args[0]).exists():
            before = f"cmtool {ctx.info_name}" if ctx.parent else "cmtool"
            raise CmtoolError(
                f"'{args[0]}' stands where a command is expected",
                f"{before} COMMAND {args[0]}, commands: {', '.join(self.commands)}",
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        with _told(debug=ctx.params.get("debug", False)):
            return super().invoke(ctx)


@contextmanager
def _told(*, debug: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        again = "the same command begins again, or says how to go on"
        error("stopped; what was saved before is kept", again)
        sys.exit(130)
    except BrokenPipeError:
        raise
    except (CmtoolError, OSError, MemoryError, RuntimeError) as problem:
        told = _as_error(problem)
        if debug or told is None:
            raise
        error(told.message, told.hint)
        sys.exit(told.exit_code)


def _as_error(problem: Exception) -> CmtoolError | None:
    """What to tell the user; None for a bug of ours."""
    if isinstance(problem, CmtoolError):
        return problem
    if isinstance(problem, OSError):
        place = f"cannot use '{problem.filename}': " if problem.filename else ""
        return CmtoolError(
            f"{place}{why(problem)}", "check the path, its rights and the free space"
        )
    # torch says a lack of memory in a RuntimeError; nothing heavy may be imported here to ask.
    told = str(problem).lower()
    if isinstance(problem, MemoryError) or any(words in told for words in NO_MEMORY):
        full = CmtoolError(
            "out of memory",
            "a smaller --batch-size or network; --set train.micro_batch=8 takes a batch in parts",
        )
        full.exit_code = 1
        return full
    return None
