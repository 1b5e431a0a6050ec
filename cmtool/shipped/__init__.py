"""Models that come with the package: named `shipped/NAME` wherever a model is taken.

Each is a `.safetensors` file of this tool in this folder, made by `recipes/ship.py`.
"""

from pathlib import Path

from cmtool.errors import CheckpointError, did_you_mean

PREFIX = "shipped/"
FOLDER = Path(__file__).parent
"""Where the files are."""


def names() -> list[str]:
    """The models in this folder, without the prefix."""
    return sorted(file.stem for file in FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """The file of a model.

    Args:
        name: With or without the prefix.

    Raises:
        CheckpointError: There is none of that name.
    """
    name = name.removeprefix(PREFIX)
    if name not in names():
        there = ", ".join(PREFIX + other for other in names()) or "none"
        raise CheckpointError(
            f"no model '{PREFIX}{name}' comes with cmtool{did_you_mean(name, names())}",
            f"these do: {there}",
        )
    return FOLDER / f"{name}.safetensors"


def is_name(text: str) -> bool:
    """Whether a text names a shipped model, and nothing that is there.

    Example:
        >>> is_name("shipped/digits"), is_name("runs/digits-cd")
        (True, False)
    """
    return text.startswith(PREFIX) and not Path(text).exists()
