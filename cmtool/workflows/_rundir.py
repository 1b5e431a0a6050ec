"""A run's directory: whether it is free, what a resumed run must share with it, its log."""

import json
import os
import platform
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from cmtool import checkpoint
from cmtool import recipe as recipes
from cmtool.checkpoint import Checkpoint
from cmtool.errors import CheckpointError, RecipeError
from cmtool.recipe import Recipe
from cmtool.training import StepReport

try:
    import fcntl
except ImportError:  # Windows has no such locks.
    fcntl = None  # type: ignore[assignment]

LOG = "log.jsonl"
LOCK = "lock"
MAY_CHANGE = {
    *("steps", "device", "log_every", "sample_every", "save_every", "keep_last", "tracker"),
    *("micro_batch", "compile"),
}
"""Keys of [train] that a resumed run may have otherwise: they do not change what is computed."""


def check(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses a directory that a run cannot use.

    Raises:
        CmtoolError: It is taken, or has nothing to resume.
    """
    if resume and overwrite:
        raise RecipeError("--resume and --overwrite exclude each other", "drop one of them")
    if resume and checkpoint.latest(out) is None:
        raise CheckpointError(f"nothing to resume in '{out}'", "drop --resume to start the run")
    if out.is_file():
        raise CheckpointError(f"'{out}' is a file, a run needs a folder", f"--out {_free(out)}")
    strange = sorted(p.name for p in out.iterdir() if not _ours(p)) if out.is_dir() else []
    if strange and not resume:
        raise CheckpointError(
            f"'{out}' holds {strange[0]}, which is not of a run", f"--out {_free(out)} is free"
        )
    # A run that never came to its first checkpoint blocks nobody.
    if checkpoint.latest(out) is not None and not (resume or overwrite):
        raise CheckpointError(
            f"'{out}' is there already",
            f"--resume goes on, --overwrite starts anew, --out {_free(out)} is free",
        )


def saved_for(out: Path, recipe: Recipe) -> Checkpoint:
    """The checkpoint that a resumed run starts from.

    Raises:
        CmtoolError: There is none, or it was trained with another recipe; names the differences.
    """
    saved = Checkpoint.open(out)
    same = {key: getattr(recipe.train, key) for key in MAY_CHANGE}
    before = replace(saved.recipe, train=replace(saved.recipe.train, **same))
    if before != recipe:
        old, new = _flat(before), _flat(recipe)
        changed = [
            f"{key} = {old.get(key, 'not set')} -> {new.get(key, 'not set')}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        raise RecipeError(
            f"{out} was trained with another recipe: {'; '.join(changed[:5])}",
            "give the same options, or another --out",
        )
    return saved


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps other processes from training into the directory, which it makes.

    The system gives the lock back when this process ends, however that happens. Where there are no
    locks, as on some file systems, nobody is kept out.

    Raises:
        CheckpointError: Another process trains into it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("a+", encoding="utf-8") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckpointError(
                f"{file.read() or 'another process'} trains into '{out}' now",
                f"wait for it, or --out {_free(out)} is free",
            ) from None
        except OSError:
            pass
        if os.fstat(file.fileno()).st_nlink == 0:  # Removed after it was opened: it keeps none out.
            raise CheckpointError(
                f"another process left '{out}' at this moment", "the same command again"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                (out / LOCK).unlink()


def start(out: Path, recipe: Recipe, step: int) -> None:
    """Makes the directory ready: an old run goes, unless this one goes on from `step` > 0."""
    for old in list(out.iterdir()) if step == 0 else []:
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
        elif old.name != LOCK:
            old.unlink()
    (out / "recipe.toml").write_text(recipes.dump(recipe))
    if (out / LOG).is_file():
        # Steps after the checkpoint are done again.
        lines = (out / LOG).read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["index"] <= step]
        (out / LOG).write_text("".join(kept))


def log(out: Path, report: StepReport) -> None:
    """Appends one line of JSON."""
    line = asdict(report)
    line |= line.pop("stats")
    with (out / LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")


def _ours(path: Path) -> bool:
    return path.name in ("recipe.toml", LOG, LOCK, "latest", "samples", "cmtool", "wandb") or (
        path.name.startswith(("step-", "latest", ".latest."))
    )


def _free(out: Path) -> Path:
    out = out.resolve() if out.name == "" else out
    return next(p for i in range(2, 10**6) if not (p := out.with_name(f"{out.name}-{i}")).exists())


def _flat(recipe: Recipe) -> dict[str, object]:
    document = tomllib.loads(recipes.dump(recipe))
    return {f"{name}.{key}": v for name, keys in document.items() for key, v in keys.items()}
