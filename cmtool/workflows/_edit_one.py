"""One file after another, each edited as if it were alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmtool.errors import DataError, Say, silent
from cmtool.images import Pixels
from cmtool.pictures import Picture, read_picture
from cmtool.rng import SeedRng
from cmtool.workflows._edit_files import ANIMATION, STRIP, Task
from cmtool.workflows._edit_holes import Hole, cut
from cmtool.workflows._edit_job import Wish
from cmtool.workflows._edit_run import Job, Outcome, Progress, at_model_size, run_job, size_of
from cmtool.workflows._edit_score import Score, score
from cmtool.workflows._edit_sizes import fitted, resize, tile_starts
from cmtool.workflows._edit_views import pixels_of, save_steps, save_strip

MANY = 10_000
"""Evaluations that a small network takes a minute or two for on a CPU."""


@dataclass(frozen=True)
class Request:
    """What a user asks of `cmtool edit`.

    Args:
        images: Files, or one folder.
        wish: How to sample.
        hole: What to repaint, for an editor with a mask.
        n: Variants of each picture.
        simulate: Whether the pictures are clean and are to be measured first.
        truth: The clean picture, or a folder with the same names.
        compare: Whether to write a strip of input, measurement, results and truth.
        trajectory: Whether to write an animation of the steps.
        out: A PNG file or a folder; None is beside the picture.
        overwrite: Whether results may exist.
        resume: Whether results that exist are kept.
        model: Its path; None chooses one.
        weights: See `load`.
        facts: See `load`.
        device: See `load`.
    """

    images: tuple[Path, ...]
    wish: Wish = field(default_factory=Wish)
    hole: Hole = field(default_factory=Hole)
    n: int = 1
    simulate: bool = False
    truth: Path | None = None
    compare: bool = False
    trajectory: bool = False
    out: Path | None = None
    overwrite: bool = False
    resume: bool = False
    model: Path | None = None
    weights: str = "ema"
    facts: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None


class OneFile:
    """Edits one file after another, each as if it were alone."""

    def __init__(
        self,
        job: Job,
        name: str,
        request: Request,
        kernels: Mapping[str, Tensor],
        say: Say,
        progress: Progress,
    ) -> None:
        self.job = job
        self.name = name
        self.request = request
        self.kernels = kernels
        self.say = say
        self.progress = progress

    def __call__(self, task: Task) -> tuple[list[Path], Score]:
        picture = read_picture(task.source)
        for note in picture.notes:
            self.say(f"{task.source}: {note}")
        pictures = dict(self.kernels)
        whole = picture
        if "mask" in self.job.editor.pictures:
            whole, hole = cut(picture, self.request.hole, str(task.source), self.say)
            pictures["mask"] = from_mask(hole)
            if not hole.any():
                self.say(f"warning: {task.source}: nothing is to be repainted; it is copied")
                for target in task.targets:
                    whole.save(target)
                return list(task.targets), Score()
            if hole.all():
                self.say(f"{task.source}: all is to be repainted: a plain sample")
        image = whole.tensor(1 if whole.grey else 3)
        image = in_channels(image, self.job, str(task.source), self.say)
        self._tell_size(image, str(task.source))
        rng = SeedRng(self.request.wish.seed, range(self.request.n), self.job.model.device)
        steps: list[tuple[float, Tensor]] = []
        outcome = run_job(
            self.job,
            image.expand(self.request.n, -1, -1, -1),
            pictures,
            rng,
            simulate=self.request.simulate,
            watch=(lambda sigma, x: steps.append((sigma, x.float().cpu())))
            if self.request.trajectory
            else None,
            progress=self.progress,
        )
        if outcome.sigma is not None:
            sigma = float(outcome.sigma[0])
            self.say(f"{task.source}: noise of {sigma:.3g}, that is {127.5 * sigma:.3g}/255")
        if outcome.tol and outcome.error is not None and outcome.error.max() > outcome.tol:
            clean = "" if outcome.truth is not None else "; a clean picture takes --simulate"
            self.say(
                f"{task.source}: the result misses the measurement by {outcome.error.max():.2g}, "
                f"more than the tolerance {outcome.tol:g}{clean}"
            )
        return self._write(task, whole, image, outcome, steps)

    def _tell_size(self, image: Tensor, name: str) -> None:
        size, model = size_of(image), self.job.size
        shown = f"{model[1]}x{model[0]}"
        sizes = self.job.editor.sizes
        if sizes == "tile" and not self.job.native:
            factor = 1 if self.request.simulate else self.job.editor.enlarges
            sides = zip(size, model, strict=True)
            tiles = math.prod(len(tile_starts(factor * side, tile)) for side, tile in sides)
            if tiles > 1:
                many = tiles * len(self.job.levels) * self.request.n > MANY
                less = "; --native or a smaller picture takes less time" if many else ""
                self.say(f"{name}: {tiles:,} overlapping tiles of {shown} at each level{less}")
        if fitted(size, model) == size:
            return
        if self.job.native and sizes != "model":
            self.say(f"{name}: the result fits into the model's size, {shown}")
        elif sizes == "model":
            self.say(
                f"{name}: {self.name} works at the model's size, {shown}, on the middle square; "
                "the result has that size"
            )
        elif sizes == "resize":
            where = ", the hole and what is about it" if "mask" in self.job.editor.pictures else ""
            self.say(
                f"{name}: edited at the model's size, {shown}{where}; what changed is enlarged"
            )

    def _write(
        self,
        task: Task,
        picture: Picture,
        image: Tensor,
        outcome: Outcome,
        steps: Sequence[tuple[float, Tensor]],
    ) -> tuple[list[Path], Score]:
        pixels = pixels_of(outcome.result)
        truth = self._truth(task, outcome)
        first = [None if e is None else float(e[0]) for e in (outcome.error, outcome.saved_error)]
        found = score(pixels[0], truth, *first)  # A truth that does not fit comes before writing.
        paths: list[Path] = []
        if self.request.compare:
            paths.append(task.beside(STRIP))
            save_strip(paths[-1], self._panels(image, outcome, truth))
        if steps:
            paths.append(task.beside(ANIMATION))
            save_steps(paths[-1], steps)
        for target, result in zip(task.targets, pixels, strict=True):
            picture.with_pixels(result).save(target)
        return [*paths, *task.targets], found

    def _truth(self, task: Task, outcome: Outcome) -> Tensor | None:
        if task.truth is None:
            return None if outcome.truth is None else outcome.truth[0].float()
        picture = read_picture(task.truth)
        truth = picture.tensor(outcome.result.shape[1])
        if self.job.editor.sizes == "model":
            truth = at_model_size(truth, self.job.size)
        elif self.job.native:
            truth = resize(truth, size_of(outcome.result))
        return truth[0]

    def _panels(self, image: Tensor, outcome: Outcome, truth: Tensor | None) -> dict[str, Tensor]:
        panels = {"input": image[0], "measurement": outcome.shown[0]}
        if self.request.simulate or self.job.editor.degrades:
            panels = {"measurement": outcome.shown[0]}
        elif image.shape[2:] != outcome.result.shape[2:]:
            panels["input"] = torch.nn.functional.interpolate(
                image, size=size_of(outcome.result), mode="nearest"
            )[0]
        names = ["result"] if self.request.n == 1 else [f"{i + 1}" for i in range(self.request.n)]
        panels |= dict(zip(names, outcome.result, strict=True))
        return panels if truth is None else panels | {"truth": truth}


def from_mask(mask: Pixels) -> Tensor:
    """(H, W) uint8 to (1, 1, H, W) in 0 .. 1."""
    return torch.from_numpy(mask.copy())[None, None].double() / 255


def in_channels(image: Tensor, job: Job, name: str, say: Say = silent) -> Tensor:
    """A picture with the model's channels: grey is repeated."""
    have, want = image.shape[1], job.model.image_shape[0]
    if have == 3 and want == 1:
        raise DataError(
            f"'{name}' has colours, and the model makes grey pictures",
            "make it grey, or --model with a model of coloured images",
        )
    if job.editor.channels == 3 and have == 3 and not _is_neutral(image) and say is not silent:
        say(f"{name}: has colours; its luma is used")
    if have == want:
        return image
    if job.editor.channels is None:
        say(f"{name}: grey, and the model makes coloured pictures: the result is coloured")
    return image.expand(-1, want, -1, -1)


def _is_neutral(image: Tensor) -> bool:
    return bool((image == image[:, :1]).all())
