"""`cmtool eval lpips`: how much a model's images differ from each other."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmtool import images
from cmtool.data.base import ImageSet, Labels
from cmtool.errors import Say, silent
from cmtool.metrics.diversity import PairMean
from cmtool.metrics.lpips import Lpips, missing_lpips, open_lpips
from cmtool.rng import SeedRng
from cmtool.workflows._beyond import (
    Report,
    aligned,
    cell,
    classes_of,
    finish,
    open_one,
    own_images,
    record_of,
    stoppable,
)
from cmtool.workflows._draw import Plan, chunks, default_batch, draw
from cmtool.workflows._features import Progress
from cmtool.workflows._report import Row
from cmtool.workflows._subjects import Opened
from cmtool.workflows._subjects import Request as Request

N = 1000
BATCH = 32
"""Images that LPIPS sees at a time, enlarged."""

Read = Callable[[Sequence[int]], Tensor]
"""Numbers (B,) -> images (B, C, H, W) in [-1, 1]."""
Figures = dict[str, dict[str, Any]]


def diversity(
    request: Request, *, say: Say = silent, progress: Progress = lambda done, total: None
) -> Report:
    """Measures the mean distance of two images, of all and of one class.

    Args:
        request: The model, its steps, n, seed, the images to compare with, the report.
        say: Is told what is done how.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: Something cannot be opened or written.
        Stopped: A signal came.
    """
    opened, out = open_one(request, say)
    model, n = opened.model.denoiser, request.n or N
    reference, data, notes = None, None, list[str]()
    if request.data is not None or opened.model.recipe.data.name is not None:
        reference, data = own_images(opened, request, say)
    told = missing_lpips()
    notes += [told] if told else []
    lpips = None if told else open_lpips(model.device)
    labels = None
    if model.num_classes:
        labels = SeedRng(request.seed, range(n)).labels(model.num_classes).numpy()
    size, total = request.batch_size or default_batch(model), n * len(opened.plans)
    rows: list[Row] = []
    with stoppable() as check:
        measure = _Measure(lpips, model.device, size, check)
        for plan in opened.plans:
            read = _drawn(opened, plan, request.seed)
            tick = partial(_tick, progress, len(rows) * n, total)
            found = measure(read, n, labels, tick)
            rows.append(Row(str(opened.path), record_of(opened, plan, request, n), found))
        if reference is not None and data is not None:
            found, count = _of_training_images(measure, data, opened, n, request.seed)
            rows.append(Row(reference.name, {"images": reference.name, "n": count}, found))
    settings = {
        "lpips": None if lpips is None else lpips.facts,
        "reference": None if reference is None else {**reference.record, "name": reference.name},
    }
    return finish(request, out, rows, settings, notes, _lines(rows))


def _tick(progress: Progress, begun: int, total: int, done: int) -> None:
    progress(begun + done, total)


def _drawn(opened: Opened, plan: Plan, seed: int) -> Read:
    model = opened.model.denoiser
    return lambda numbers: draw(model, plan, numbers, seed)[0].clamp(-1, 1)


def _of_training_images(
    measure: "_Measure", data: ImageSet, opened: Opened, n: int, seed: int
) -> tuple[Figures, int]:
    """The same of so many training images: what the model's figures should be."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data))[:n])
    labels = classes_of(data, opened)[chosen] if opened.model.denoiser.num_classes else None

    def read(numbers: Sequence[int]) -> Tensor:
        return images.from_uint8(torch.from_numpy(data.images(chosen[list(numbers)])))

    return measure(read, len(chosen), labels, lambda done: None), len(chosen)


@dataclass(frozen=True)
class _Measure:
    """Mean distances over pairs, image by image of one class after the other."""

    lpips: Lpips | None
    device: torch.device
    size: int
    check: Callable[[], None]

    def __call__(
        self, read: Read, n: int, labels: Labels | None, tick: Callable[[int], None]
    ) -> Figures:
        groups = [np.arange(n)]
        if labels is not None:
            groups = [np.flatnonzero(labels == c) for c in np.unique(labels)]
        whole = {name: PairMean() for name in self._names}
        inside = {name: list[tuple[int, float]]() for name in self._names}
        done = 0
        for group in groups:
            own = {name: PairMean() for name in self._names}
            for name, vectors in self._vectors(read, group):
                own[name].add(vectors)
            done += len(group)
            tick(done)
            for name in self._names:
                whole[name].join(own[name])
                inside[name] += [(own[name].pairs, own[name].value())] if len(group) > 1 else []
        found: Figures = {}
        for name in self._names:
            found[f"{name} of pairs"] = _figure(name, [(whole[name].pairs, whole[name].value())])
            if labels is not None and inside[name]:
                found[f"{name} in a class"] = _figure(name, inside[name])
        return found

    @property
    def _names(self) -> list[str]:
        return ["rms"] + ([] if self.lpips is None else ["LPIPS"])

    def _vectors(self, read: Read, group: Labels) -> Iterator[tuple[str, Tensor]]:
        for part in chunks(len(group), self.size):
            x = read(group[part.start : part.stop].tolist())
            for start in range(0, len(x), BATCH):
                self.check()
                block = x[start : start + BATCH]
                # Over the root of the width: the mean square over an image's values.
                yield "rms", block.flatten(1) / math.sqrt(block[0].numel())
                if self.lpips is not None:
                    yield "LPIPS", self.lpips.embed(block.to(self.device)).cpu()


def _figure(name: str, parts: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """From (pairs, mean) of each part the mean over the pairs of all; of squares its root."""
    pairs = sum(count for count, _ in parts)
    mean = sum(count * value for count, value in parts) / pairs
    return {"value": mean**0.5 if name == "rms" else mean, "pairs": pairs, "higher": True}


def _lines(rows: Sequence[Row]) -> list[str]:
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    body = []
    for row in rows:
        figures = [cell(row.figures[name]) if name in row.figures else "" for name in names]
        nfe = "" if row.nfe is None else str(row.nfe)
        body.append([row.name, nfe, f"{row.record['n']:,}", *figures])
    return aligned(["images", "NFE", "n", *names], body)
