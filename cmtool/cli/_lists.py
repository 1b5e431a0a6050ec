"""`cmtool --list KIND`: names from folders, at once."""

from cmtool import registry
from cmtool.data import names as data
from cmtool.errors import RecipeError, did_you_mean

KINDS = ("recipes", "data", *registry.KINDS)


def listing(kind: str) -> str:
    """One line for each thing of a kind.

    Raises:
        RecipeError: There is no such kind.
    """
    if kind == "recipes":
        from cmtool import recipe  # Here, as it costs a tenth of a help page's time.

        return "\n".join(f"{name:24} {recipe.header(name).title}" for name in recipe.names())
    if kind == "data":
        return "\n".join(f"{name:14} {text}" for name, text in data.DESCRIPTIONS.items())
    if kind not in KINDS:
        raise RecipeError(
            f"nothing to list of kind '{kind}'{did_you_mean(kind, KINDS)}",
            f"kinds are {', '.join(KINDS)}",
        )
    return "\n".join(registry.names(kind))
