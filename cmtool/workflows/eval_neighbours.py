"""`cmtool eval neighbours`: samples beside the training images nearest to them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cmtool import images, plots
from cmtool.data.base import ImageSet
from cmtool.data.catalog import open_data
from cmtool.errors import DataError, RecipeError, Say, silent
from cmtool.metrics.features.base import Extractor, Vectors
from cmtool.metrics.features.catalog import open_features
from cmtool.metrics.frechet import Array
from cmtool.metrics.neighbours import Nearest, nearer, nearest
from cmtool.metrics.protocols import protocol_for
from cmtool.metrics.references import content_hash
from cmtool.workflows._beyond import (
    Report,
    aligned,
    cell,
    features_of,
    finish,
    open_one,
    own_images,
)
from cmtool.workflows._features import Progress, Source
from cmtool.workflows._report import Row
from cmtool.workflows._subjects import Opened, drawn, source_of
from cmtool.workflows._subjects import Request as Request

N = 1000
QUANTILES = (0.01, 0.05)


@dataclass(frozen=True)
class Wanted:
    """What is shown.

    Args:
        k: Training images beside a sample.
        show: Samples in the picture, those nearest to a training image first.
    """

    k: int = 5
    show: int = 12

    def check(self) -> None:
        """Checks the numbers.

        Raises:
            RecipeError: One is out of range.
        """
        if self.k < 1:
            raise RecipeError(f"--k must be at least 1, got {self.k}", "--k 5")
        if self.show < 1:
            raise RecipeError(f"--show must be at least 1, got {self.show}", "--show 12")


def neighbours(
    request: Request,
    wanted: Wanted,
    *,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Finds each sample's nearest training images, and holds the distances against those of images
    that were not trained on.

    Args:
        request: The model, its steps (the first), n, seed, features, training images, the report.
        wanted: What is shown.
        say: Is told what is done how.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: Something cannot be opened, compared or written.
        Stopped: A signal came; the features that are done are kept.
    """
    wanted.check()
    opened, out = open_one(request, say)
    if len(opened.plans) > 1:
        raise RecipeError("eval neighbours takes one number of steps", "--steps 1")
    reference, data = own_images(opened, request, say)
    if wanted.k >= len(data):
        raise RecipeError(
            f"--k {wanted.k}: '{reference.name}' has {len(data)} images", f"--k {len(data) - 1}"
        )
    rules = protocol_for(opened.model.recipe.data.name or "")
    device = opened.model.denoiser.device
    extractor = open_features(request.features or "pixel", device, mode=rules.mode, say=say)
    request = replace(request, n=request.n or N)
    subject = drawn(opened, opened.plans[0], request.seed, rules, request, device)

    def features(source: Source) -> Vectors:
        return features_of(source, extractor, say, progress)

    trained = features(source_of(data, f"training images {data.name}", reference.content))
    rows = features(subject.source)
    found = nearest(rows, trained, wanted.k)
    held, of_what, notes = None, "", list(reference.notes)
    test = _test_images(opened, request, say)
    if test is not None:
        some = min(len(test), 10_000)
        source = source_of(test, f"test images {test.name}", content_hash(test), some)
        held, of_what = nearest(features(source), trained), f"{some:,} test images"
    else:
        some = min(len(trained), 10_000)
        held, of_what = nearest(trained[:some], trained, same=True), f"{some:,} left out in turn"
        notes.append("no test images: each training image is held against the others instead")
    distances, others = found.distances[:, 0], held.distances[:, 0]
    figures = _figures(distances, others)
    row = Row(subject.name, {**subject.record, "held_out": of_what}, figures)
    settings = {
        "features": dict(extractor.facts),
        "reference": {**reference.record, "name": reference.name},
    }
    lines = aligned(
        ["figure", subject.name, ""],
        [[name, cell(figure), figure["is"]] for name, figure in figures.items()],
    )
    lines += [f"distances in {extractor.name} features to {len(data):,} images of {reference.name}"]
    order = np.argsort(distances, kind="stable")[: wanted.show]
    pixels, _ = subject.source.read(range(len(rows)), lambda: None)
    pictures = {
        "": _picture(pixels[order], data, found, order, extractor),
        "-distances": _curves(distances, others, of_what, extractor),
    }
    return finish(request, out, [row], settings, notes, lines, pictures)


def _test_images(opened: Opened, request: Request, say: Say) -> ImageSet | None:
    """The test split of the model's data set, as large as its images; None if there is none."""
    own = opened.model.recipe.data
    channels, size, _ = opened.model.denoiser.image_shape
    name = request.data or own.name or ""
    try:
        data = open_data(
            name,
            data_dir=request.data_dir,
            split="test",
            image_size=size,
            channels=channels,
            crop=own.crop,
            skip_broken=own.skip_broken,
        )
    except DataError:
        return None
    say(f"test images {data.name}: {len(data):,}")
    return data


def _figures(distances: Array, others: Array) -> dict[str, dict[str, Any]]:
    """Names to figures with what they are."""
    found: dict[str, dict[str, Any]] = {}
    for quantile in QUANTILES:
        near = nearer(distances, others, quantile)
        spread = (quantile * (1 - quantile) * (1 / len(distances) + 1 / len(others))) ** 0.5
        found[f"nearer than {quantile:.0%}"] = {
            "value": near.share,
            "is": f"share of samples; {quantile:g} ± {spread:.2g} if nothing is remembered",
            "distance": near.distance,
            "expected": quantile,
            "expected_error": spread,
        }
    for name, value, what in (
        ("median", float(np.median(distances)), "distance of a sample to its nearest"),
        ("median held out", float(np.median(others)), "the same of images not trained on"),
        ("least", float(distances.min()), "0 is a copy"),
        ("least held out", float(others.min()), ""),
    ):
        found[name] = {"value": value, "is": what}
    return found


def _picture(
    samples: Any, data: ImageSet, found: Nearest, order: Any, extractor: Extractor
) -> images.Pixels:
    """Rows: a sample, then its nearest training images; the distances at the left."""
    which, k = found.indices[order], found.indices.shape[1]
    near = data.images(which.reshape(-1)).transpose(0, 2, 3, 1)
    told = [" ".join(f"{d:.3g}" for d in row) for row in found.distances[order]]
    own = {"sample": samples.transpose(0, 2, 3, 1)}
    left = images.labelled_grid(own, 1, row_labels=told, tile=48)
    right = images.labelled_grid({f"nearest in {extractor.name} features": near}, k, tile=48)
    return _beside(left, right)


def _beside(left: images.Pixels, right: images.Pixels) -> images.Pixels:
    height = max(len(left), len(right))
    padded = [
        np.pad(part, ((0, height - len(part)), (0, 0), (0, 0)), constant_values=255)
        for part in (left, right)
    ]
    return np.concatenate(padded, axis=1)


def _curves(distances: Array, others: Array, of_what: str, extractor: Extractor) -> images.Pixels:
    """Which share lies nearer than a distance."""
    shares = np.linspace(0, 1, 51)
    lines = [
        plots.Line(name, np.quantile(values, shares).tolist(), shares.tolist())
        for name, values in (("samples", distances), (of_what, others))
    ]
    return plots.line_plot(
        lines,
        title="distance to the nearest training image",
        x_label=f"distance in {extractor.name} features",
        y_label="share that is nearer",
    )
