"""`cmtool eval classes`: the Frechet distance of each class by itself."""

from dataclasses import replace
from typing import Any

import numpy as np

from cmtool.errors import CheckpointError, DataError, RecipeError, Say, silent
from cmtool.metrics.features.base import Vectors
from cmtool.metrics.features.catalog import open_features
from cmtool.metrics.frechet import frechet_distance
from cmtool.metrics.protocols import protocol, protocol_for
from cmtool.workflows._beyond import (
    Report,
    aligned,
    classes_of,
    features_of,
    finish,
    open_one,
    own_images,
)
from cmtool.workflows._features import Progress, Source, moments
from cmtool.workflows._report import Row
from cmtool.workflows._subjects import Request as Request
from cmtool.workflows._subjects import drawn, source_of

PER_LABEL = 1000


def classes(
    request: Request,
    per_label: int = PER_LABEL,
    *,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Measures each class's images against the training images of that class.

    Args:
        request: The model, its steps, seed, features, reference, protocol, the report.
        per_label: Images of each class.
        say: Is told what is done how.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: Something cannot be opened, compared or written.
        Stopped: A signal came; the features that are done are kept.
    """
    if per_label < 2:
        raise RecipeError(f"--per-label must be at least 2, got {per_label}", "--per-label 1000")
    opened, out = open_one(request, say)
    model = opened.model.denoiser
    if not model.classes:
        raise CheckpointError(f"{opened.model.source} knows no classes", "cmtool eval fd")
    reference, data = own_images(opened, request, say)
    labels = classes_of(data, opened)
    counts = np.bincount(labels, minlength=model.num_classes)
    if counts.min() < 2:
        few = model.classes[int(counts.argmin())]
        raise DataError(f"'{reference.name}' has {counts.min()} image(s) of class '{few}', not two")
    trained = opened.model.recipe.data.name or ""
    rules = protocol(request.protocol) if request.protocol else protocol_for(trained)
    extractor = open_features(
        request.features or rules.features, model.device, mode=rules.mode, say=say
    )

    def features(source: Source) -> Vectors:
        return features_of(source, extractor, say, progress)

    real = features(source_of(data, f"reference {data.name}", reference.content))
    known = [moments(real[labels == c], rules.ddof).rooted() for c in range(model.num_classes)]
    whole, title, rows = moments(real, rules.ddof).rooted(), extractor.title("FD"), []
    request = replace(request, n=per_label * model.num_classes)
    for plan in opened.plans:
        plan = replace(plan, per_label=per_label)
        subject = drawn(opened, plan, request.seed, rules, request, model.device)
        record = subject.record | {"labels": "each class in turn"}
        found = features(subject.source)
        for c, name in enumerate(model.classes):
            own = moments(found[c * per_label : (c + 1) * per_label], rules.ddof)
            figure = {title: {"value": frechet_distance(own, known[c])}}
            more = {"class": name, "n": per_label, "references": int(counts[c])}
            rows.append(Row(name, record | more, figure))
        figure = {title: {"value": frechet_distance(moments(found, rules.ddof), whole)}}
        more = {"class": None, "references": len(real)}
        rows.append(Row("all together", record | more, figure))
    settings = {
        "protocol": rules.record() | {"features": extractor.name},
        "features": dict(extractor.facts) | {"random": extractor.random},
        "reference": {**reference.record, "name": reference.name},
    }
    lines = aligned(
        ["class", "NFE", "n", "references", title],
        [[r.name, str(r.nfe), f"{r.record['n']:,}", f"{r.record['references']:,}",
          f"{r.figures[title]['value']:.4g}"] for r in rows],
    )  # fmt: skip
    return finish(request, out, rows, settings, _notes(per_label, counts, real), lines)


def _notes(per_label: int, counts: Any, real: Any) -> list[str]:
    few = min(per_label, int(counts.min()))
    notes = [
        "fewer images make a larger Frechet distance: classes and models may be "
        "compared at the same numbers"
    ]
    if few <= real.shape[1]:
        notes.append(
            f"{few:,} images for {real.shape[1]:,} features: a class's covariance is "
            "rank-deficient, its distance biased upwards"
        )
    return notes
