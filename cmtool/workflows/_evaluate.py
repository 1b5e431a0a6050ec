"""What evaluations share: a model, the images it is held against, and metrics by name."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmtool import images
from cmtool.data.base import ImageSet
from cmtool.data.catalog import open_data
from cmtool.denoiser import Denoiser, Kind
from cmtool.errors import CheckpointError, DataError, RecipeError, Say, did_you_mean
from cmtool.metrics.frechet import Array, Gaussian, Running, frechet_distance, pixel_features
from cmtool.workflows._draw import Plan, check_request, chunks, default_batch, draw
from cmtool.workflows.load import Model, newest_run, open_model, pick_device

Progress = Callable[[int, int], None]
Features = Callable[[NDArray[np.uint8]], Array]
FEATURES: dict[str, Features] = {"pixel": pixel_features}
METRICS = tuple(f"fd-{name}" for name in FEATURES)
BATCH = 1024
"""Images of the reference at a time."""


@dataclass(frozen=True)
class Request:
    """What is evaluated, on what.

    Args:
        model: A path; None is the newest finished consistency model under `runs`.
        data: Name or path of the reference; None is the model's own training set.
        data_dir: Where data sets lie.
        n: Images 0 .. n - 1 of the seed.
        seed: Non-negative.
        weights: See `load`.
        facts: See `load`.
        device: See `load`.
        batch_size: Images at a time; None suits the device.
    """

    model: Path | None = None
    data: str | None = None
    data_dir: Path | None = None
    n: int = 10_000
    seed: int = 0
    weights: str = "ema"
    facts: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class Subject:
    """A model on its device, and the images it should look like."""

    model: Model
    path: Path
    data: ImageSet
    request: Request

    @property
    def denoiser(self) -> Denoiser:
        """The model itself."""
        return self.model.denoiser

    def settings(self) -> dict[str, Any]:
        """All that a figure depends on beside noise levels and metric, for its record."""
        state = self.denoiser.state()
        digest = hashlib.sha256()
        for name in sorted(state):
            digest.update(name.encode())
            digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
        return {
            "model": str(self.path),
            "weights": self.request.weights,
            "sha256": digest.hexdigest(),
            "reference": {**self.data.facts, "images": len(self.data)},
            "n": self.request.n,
            "seed": self.request.seed,
        }


def open_subject(request: Request, say: Say, kind: Kind | None = None) -> Subject:
    """Opens model and reference, after checking what can be checked without them.

    Raises:
        CmtoolError: One of them cannot be opened, or the model is not of the kind.
    """
    check_request(request.n, request.seed)
    if request.n < 2:
        raise RecipeError(f"--n must be at least 2, got {request.n}", "--n 10000")
    if request.batch_size is not None and request.batch_size < 1:
        raise RecipeError(
            f"--batch-size must be at least 1, got {request.batch_size}", "leave it out"
        )
    path = request.model or newest_run(Path("runs"), "consistency", say)
    model = open_model(path, weights=request.weights, facts=request.facts, say=say)
    if kind is not None and model.denoiser.kind != kind:
        raise CheckpointError(
            f"{model.source} is a {model.denoiser.kind} model; this needs a {kind} model",
            "make one: cmtool distill --teacher MODEL",
        )
    data = _reference(model, request, say)
    model.denoiser.to(pick_device(request.device))
    return Subject(model, path, data, request)


def _reference(model: Model, request: Request, say: Say) -> ImageSet:
    settings = model.recipe.data
    name = request.data or settings.name
    if name is None:
        raise RecipeError(
            f"{model.source} does not tell what it was trained on", "--data NAME|FOLDER|ZIP"
        )
    channels, size, _ = model.denoiser.image_shape
    data = open_data(
        name,
        data_dir=request.data_dir,
        image_size=size,
        channels=channels,
        crop=settings.crop,
        skip_broken=settings.skip_broken,
        say=say,
    )
    if len(data) < 2:
        raise DataError(f"data set '{name}' has {len(data)} image(s), a reference needs two")
    say(f"reference {data.name}: {len(data):,} images")
    return data


class FrechetDistance:
    """The Frechet distance between a model's images and the reference; nothing is kept of them.

    Args:
        subject: Model and reference.
        features: A name in FEATURES.
        progress: Is told (images done, images in all).
    """

    def __init__(self, subject: Subject, features: str, progress: Progress) -> None:
        self.subject = subject
        self.features = FEATURES[features]
        self.progress = progress
        running = Running()
        for part in chunks(len(subject.data), BATCH):
            running.add(self.features(subject.data.images(np.array(part))))
        self.reference = running.moments().rooted()

    def __call__(self, plan: Plan) -> float:
        """The distance of images that are drawn so."""
        return frechet_distance(self._drawn(plan), self.reference)

    def _drawn(self, plan: Plan) -> Gaussian:
        model, request, running = self.subject.denoiser, self.subject.request, Running()
        for numbers in chunks(request.n, request.batch_size or default_batch(model)):
            x, _ = draw(model, plan, numbers, request.seed)
            running.add(self.features(images.to_uint8(x).numpy()))
            self.progress(numbers.stop, request.n)
        return running.moments()


def check_metric(name: str) -> None:
    """Checks the name of a metric.

    Raises:
        RecipeError: There is none of that name.
    """
    if name not in METRICS:
        raise RecipeError(
            f"unknown metric '{name}'{did_you_mean(name, METRICS)}", f"one of {', '.join(METRICS)}"
        )


def write_json(path: Path, content: object) -> None:
    """Writes a report, whole or not at all; makes the folder.

    Raises:
        DataError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise DataError(f"cannot write '{path}': {reason}", "free space or another --out") from None
