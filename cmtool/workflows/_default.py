"""The model of a command that names none: the user's newest that suits, else one of the shipped."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cmtool import checkpoint, shipped
from cmtool.checkpoint import Checkpoint
from cmtool.errors import CheckpointError, CmtoolError, Say
from cmtool.meta import Meta
from cmtool.recipe import Recipe

RUNS = Path("runs")
PREFERRED = ("cifar10", "mnist", "digits")
"""The shipped consistency models, the one to be shown first first."""


def default_model(say: Say, *, channels: Sequence[int] = (), labelled: bool = True) -> Path:
    """The newest finished consistency run under `runs` that suits, else the first shipped model
    that does.

    Args:
        say: Is told what was passed over and why, and what is taken.
        channels: Of the model's images, the best first; none given is any.
        labelled: Whether a class is given; without, a model must know pictures of no class too.

    Raises:
        CheckpointError: None suits.
    """
    for wanted in channels or (None,):
        told, path = _first(wanted, labelled=labelled)
        if path is not None:
            break
    for line in told:
        say(line)
    if path is not None:
        return path
    raise CheckpointError(
        f"no model is given, and neither '{RUNS}' nor cmtool itself has a finished consistency "
        "model that suits",
        "give a model, or make one: cmtool distill",
    )


def _first(channels: int | None, *, labelled: bool) -> tuple[list[str], Path | None]:
    """The first candidate that suits, and what to tell."""
    told = []
    for path, found in _candidates():
        reason = found if isinstance(found, str) else _unfit(*found, channels, labelled=labelled)
        if reason is None:
            ours = shipped.is_name(path.as_posix())
            comes = ", which comes with cmtool" if ours else ""
            told.append(f"no model is given: taking {path}{comes}")
            if ours and path.name != PREFERRED[0]:
                told.append("it knows digits alone; for a photograph --model shipped/cifar10")
            return told, path
        told.append(f"passed over {path}: {reason}")
    return told, None


def _candidates() -> Iterator[tuple[Path, tuple[Meta, Recipe] | str]]:
    """The runs, the newest first, then the shipped models; with why they are of no use to any
    command."""
    marks = RUNS.glob("*/latest")
    for run in [p.parent for p in sorted(marks, key=lambda p: p.stat().st_mtime, reverse=True)]:
        try:
            found = Checkpoint.open(run)
        except CmtoolError as error:
            yield run, error.message
            continue
        done, all_steps = found.meta.step, found.recipe.train.steps
        if found.meta.kind != "consistency":
            yield run, f"a {found.meta.kind} model"
        elif done < all_steps:
            yield run, f"at step {done} of {all_steps}"
        else:
            yield run, (found.meta, found.recipe)
    for name in (name for name in PREFERRED if name in shipped.names()):
        file = shipped.path(name)
        config = checkpoint.read_header(file) or ""
        yield Path(shipped.PREFIX + name), checkpoint.parse_config(config, str(file))


def _unfit(meta: Meta, recipe: Recipe, channels: int | None, *, labelled: bool) -> str | None:
    if channels not in (None, meta.image_shape[0]):
        return f"its images have {meta.image_shape[0]} channel(s), not {channels}"
    if meta.classes and not recipe.data.label_dropout and not labelled:
        return "it knows only pictures of a class, and no --label is given"
    return None
