"""`cmtool edit`: pictures edited with a model that was never trained for it."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from cmtool import arrays, registry
from cmtool.denoiser import Denoiser
from cmtool.editors.base import Editor
from cmtool.errors import CmtoolError, DataError, RecipeError, Say, Stopped, silent
from cmtool.images import peek
from cmtool.pictures import read_mask, read_picture
from cmtool.rng import SeedRng
from cmtool.workflows._edit_files import ANIMATION, STRIP, Task, find_files
from cmtool.workflows._edit_holes import Hole as Hole
from cmtool.workflows._edit_holes import cut
from cmtool.workflows._edit_job import Wish as Wish
from cmtool.workflows._edit_job import (
    make_editor,
    make_job,
    open_editing_model,
)
from cmtool.workflows._edit_one import OneFile, from_mask, in_channels
from cmtool.workflows._edit_one import Request as Request
from cmtool.workflows._edit_run import Job, Progress, run_job, size_of
from cmtool.workflows._edit_score import Score, mean_score
from cmtool.workflows.load import load, pick_device


@dataclass(frozen=True)
class EditReport:
    """What was done.

    Args:
        paths: All files written; the last is the one to look at, or the folder.
        scores: A line for each figure worth telling.
    """

    paths: tuple[Path, ...]
    scores: tuple[str, ...]


class SomeFailed(CmtoolError):
    """Some pictures of many could not be edited."""

    exit_code = 1


def edit(
    model: str | Path | Denoiser,
    editor: str | Editor,
    image: Any,
    *,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    seed: int = 0,
    variant: int = 0,
    label: int | str | None = None,
    guidance: float = 1.0,
    inner_steps: int | None = None,
    native: bool = False,
    simulate: bool = False,
    **options: Any,
) -> Any:
    """Edits pictures.

        cmtool.edit("runs/cifar10-cd", "inpaint", image, mask=mask)

    Args:
        model: A loaded model, or what `load` takes.
        editor: A name in `cmtool --list editors`, or an editor.
        image: A Pillow image, an array (H, W), (H, W, C) or (N, H, W, C), a tensor (C, H, W) or (N,
            C, H, W), or a list of one kind and size: bytes, or floating-point numbers in [-1, 1].
            A batch is one batch of network calls, and each of its pictures comes out as it would
            alone.
        steps: Noise levels; None is the model's own, else the editor's number.
        times: Decreasing noise levels instead.
        seed: Non-negative.
        variant: Another result for the same picture and seed.
        label: A class by number or name.
        guidance: Weight of guidance; 1 is off.
        inner_steps: Evaluations of a diffusion model for each estimate.
        native: Whether the result is as large as the model's images.
        simulate: Whether `image` is clean and is to be measured first.
        **options: The editor's: its fields, and its pictures, such as `mask` (white is repainted).

    Returns:
        The same kind as `image`.

    Raises:
        CmtoolError: Something does not suit.
    """
    denoiser = load(model) if isinstance(model, str | Path) else model
    editor, pictures = _with_pictures(editor, options)
    if variant < 0:
        raise RecipeError(f"variant must be 0 or more, got {variant}", "variant=0")
    wish = Wish(steps, times, seed, label, guidance, inner_steps, native)
    job = make_job(denoiser, editor, wish)
    from_alpha = "mask" in editor.pictures and "mask" not in pictures
    batch, back, alpha = arrays.as_batch(image, opaque=from_alpha)
    batch = in_channels(batch, job, "the picture")
    aligned = {name: arrays.as_mask(value, name) for name, value in pictures.items()}
    if from_alpha and alpha is not None:
        aligned["mask"] = (alpha < 0.5).to(batch)
    _check_pictures(editor, aligned, batch)
    rng = SeedRng(seed, [variant] * len(batch), denoiser.device)
    return back(run_job(job, batch, aligned, rng, simulate=simulate).result.cpu())


def _with_pictures(
    editor: str | Editor, options: Mapping[str, Any]
) -> tuple[Editor, dict[str, Any]]:
    """The editor, and its pictures among the options."""
    given = dict(options)
    if isinstance(editor, str):
        cls = registry.load("editors", editor)
        own = {f.name for f in fields(cls)}  # A kernel may be named, gaussian:2, or given.
        pictures = {
            k: given.pop(k)
            for k in cls.pictures
            if k in given and not (k in own and isinstance(given[k], str))
        }
        editor = make_editor(editor, given)
    else:
        pictures = given
    pictures = {k: picture for k, picture in pictures.items() if picture is not None}
    for unknown in [k for k in pictures if k not in editor.pictures]:
        raise RecipeError(f"the editor takes no '{unknown}'", "its options are in the editor")
    return editor, pictures


def edit_files(
    name: str,
    options: Mapping[str, Any],
    request: Request,
    *,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> EditReport:
    """Edits files; see `Request`.

    Args:
        name: The editor.
        options: Its fields.
        request: What to edit, and where the results go.
        say: Is told what is done how.
        progress: Is told (images that the network has seen, in all) for each file.

    Raises:
        CmtoolError: Nothing could be done; of many files, some failed and the others are done.
        Stopped: A signal came; the files that were done are kept.
    """
    _check(request)
    editor = make_editor(name, options)
    extras = [STRIP] * request.compare + [ANIMATION] * request.trajectory
    files = find_files(
        request.images,
        name,
        n=request.n,
        out=request.out,
        truth=request.truth,
        extras=extras,
        overwrite=request.overwrite,
        resume=request.resume,
        say=say,
    )
    tasks = [task for task in files.tasks if not (request.resume and task.done)]
    if len(tasks) < len(files.tasks):
        say(f"{len(files.tasks) - len(tasks)} of {len(files.tasks)} are there already")
    last = files.folder or files.tasks[-1].targets[-1]
    if not tasks:
        return EditReport((last,), ())
    if "mask" in editor.pictures and len(tasks) == 1:  # A mask that does not fit is told at once.
        cut(read_picture(tasks[0].source), request.hole, str(tasks[0].source), silent)
    job = _open(editor, name, tasks, request, say)
    one = OneFile(job, name, request, _kernels(editor, options), say, progress)
    written, scores, failed = _all(one, tasks, say)
    if failed and len(files.tasks) == 1:
        raise failed[0][1]
    first = "" if request.n == 1 else f", first of {request.n}"
    lines = [f"{path}{first}: {found}" for path, found in scores.items() if str(found)]
    if len(lines) > 1:
        lines.append(f"mean of {len(lines)}: {mean_score(list(scores.values()))}")
    if failed:
        for line in lines:
            say(line)
        raise _failure(failed, len(tasks))
    return EditReport((*[path for path in written if path != last], last), tuple(lines))


def _check(request: Request) -> None:
    if request.n < 1:
        raise RecipeError(f"--n must be at least 1, got {request.n}", "--n 4")
    if request.simulate and (request.truth is not None or request.hole.pad is not None):
        other = "--pad" if request.truth is None else "--truth"
        raise RecipeError(
            f"--simulate takes the picture itself as the truth, and {other} is given",
            f"drop --simulate or {other}",
        )


Failed = list[tuple[Task, CmtoolError]]


def _all(
    one: OneFile, tasks: Sequence[Task], say: Say
) -> tuple[list[Path], dict[Path, Score], Failed]:
    """Edits every file, also after one that failed."""
    written: list[Path] = []
    scores: dict[Path, Score] = {}
    failed: Failed = []
    for task in tasks:
        try:
            paths, found = one(task)
        except CmtoolError as error:
            if len(tasks) > 1:
                say(f"failed: {task.source}: {error.message}")
            failed.append((task, error))
        except KeyboardInterrupt:
            raise Stopped(
                f"stopped; {len(scores)} of {len(tasks)} files are done",
                "the same command with --resume goes on",
                signal.SIGINT,
            ) from None
        else:
            written += paths
            scores[task.source] = found
    return written, scores, failed


def _open(editor: Editor, name: str, tasks: Sequence[Task], request: Request, say: Say) -> Job:
    needs_three = editor.channels == 3 or any(map(_coloured, tasks))
    model = open_editing_model(
        request.model,
        name,
        channels=(3,) if needs_three else (1, 3),
        labelled=request.wish.label is not None,
        weights=request.weights,
        facts=request.facts,
        say=say,
    )
    denoiser = model.denoiser.to(pick_device(request.device))
    job = make_job(denoiser, editor, request.wish)
    levels = ", ".join(f"{t:.4g}" for t in job.levels[:6].tolist())
    more = f", ... {job.levels[-1]:.4g}" if len(job.levels) > 6 else ""
    which = "the picture's own, then those below it of " if editor.group == "free" else ""
    inner = ""
    if job.inner is not None:
        count = sum(s.nfe for s in job.inner) + 1
        inner = f", {count} evaluation{'s' * (count > 1)} at each"
    say(f"{denoiser.kind} model {model.source}: noise levels {which}{levels}{more}{inner}")
    return job


def _coloured(task: Task) -> bool:
    try:
        return not peek(task.source, str(task.source))[2]
    except CmtoolError:
        return False  # Its own turn will tell.


def _kernels(editor: Editor, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Pictures of their own size, named by an option of the same name."""
    found = {}
    for name, kind in editor.pictures.items():
        path = Path(str(options.get(name, "")))
        if kind == "own" and name in options and path.is_file():
            found[name] = from_mask(read_mask(path))
    return found


def _failure(failed: Failed, total: int) -> SomeFailed:
    told = "".join(f"\n  {task.source}: {error.message}" for task, error in failed)
    others = "the others are done" if len(failed) < total else "none is done"
    return SomeFailed(
        f"{len(failed)} of {total} files failed, {others}:{told}",
        "the same command with --resume tries those again",
    )


def _check_pictures(editor: Editor, given: Mapping[str, Tensor], image: Tensor) -> None:
    for name, kind in editor.pictures.items():
        if kind == "own":
            continue
        if name not in given:
            raise DataError(f"a {name} is needed", f"{name}=..., white where it is to be repainted")
        size = tuple(given[name].shape[2:])
        if size != size_of(image) or len(given[name]) not in (1, len(image)):
            raise DataError(
                f"the {name} is {size[1]}x{size[0]}, and the picture is "
                f"{image.shape[3]}x{image.shape[2]}",
                f"a {name} of the picture's size",
            )
