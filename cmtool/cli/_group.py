"""The command group: a user's mistake is one message and an exit code, never a traceback."""

import sys
from typing import Any

from typer.core import TyperGroup

from cmtool.cli._console import error
from cmtool.errors import CmtoolError


class Group(TyperGroup):
    """Prints `CmtoolError`s and exits with their code; `--debug` shows where they came from."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except CmtoolError as problem:
            if ctx.params.get("debug"):
                raise
            error(problem.message, problem.hint)
            sys.exit(problem.exit_code)
        except KeyboardInterrupt:
            error("stopped before there was anything to save", None)
            sys.exit(130)
        except OSError as problem:
            if ctx.params.get("debug"):
                raise
            place = f" '{problem.filename}'" if problem.filename else ""
            error(
                f"{problem.strerror or problem}{place}",
                "check the path, its rights and the free space",
            )
            sys.exit(2)
