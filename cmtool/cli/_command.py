"""A command that knows what was meant by an option it does not have."""

import shlex
from typing import Any

from typer.core import TyperCommand

from cmtool.cli import _complete
from cmtool.errors import RecipeError


class Command(TyperCommand):
    """Says how a recipe's key is set that was typed as an option, and that a model goes without."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words after the command's name."""
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as problem:  # The parser's own; its module is another in older Typers.
            if type(problem).__name__ != "NoSuchOption":
                raise
            option = str(getattr(problem, "option_name", ""))
            mine = {parameter.name for parameter in self.params}
            value = _value(option, typed)
            if option == "--model" and "model" in mine:
                told = "the model goes without '--model'"
                raise RecipeError(told, f"cmtool {ctx.info_name} {value or 'MODEL'}") from None
            near = getattr(problem, "possibilities", None) or []
            settings = _settings(option, value or "VALUE") if "set_" in mine else []
            if not settings or any(name.endswith(option.lstrip("-")) for name in near):
                raise
            told = f"there is no option '{option}', it is a key of the recipe"
            raise RecipeError(told, " or ".join(settings)) from None


def _value(option: str, typed: list[str]) -> str | None:
    """What was typed after an option."""
    value = None
    for word, following in zip(typed, [*typed[1:], "-"], strict=True):
        if word.startswith(f"{option}="):
            value = word.partition("=")[2]
        elif word == option and not following.startswith("-"):
            value = following
    return value


def _settings(option: str, value: str) -> list[str]:
    """What to type in place of an option that is named like a recipe's keys."""
    name = option.lstrip("-").replace("-", "_")
    keys = [k for k in _complete.recipe_keys() if f".{name}=" in k or k == f"{name}.name="]
    return [f"--set {shlex.quote(key + value)}" for key in keys]
