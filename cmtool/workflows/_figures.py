"""From features to figures: names, values, and how far the values can be trusted."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmtool.errors import RecipeError
from cmtool.metrics.bootstrap import frechet_interval
from cmtool.metrics.features.base import Extractor
from cmtool.metrics.frechet import frechet_distance
from cmtool.metrics.inception_score import score_of_chunks, score_of_splits
from cmtool.metrics.kid import kid
from cmtool.metrics.prdc import prdc
from cmtool.metrics.protocols import FULL, Protocol
from cmtool.workflows._features import Vault
from cmtool.workflows._reference import Measured

METRICS = ("fid", "fd", "kid", "is", "pr")
NORMAL = 1.959964
"""Standard errors to each side of a 95 % interval."""
CROWD = 5
"""k of density and coverage, as in their paper; precision and recall have the protocol's."""

Figures = dict[str, dict[str, Any]]


def wants(metrics: Sequence[str]) -> tuple[bool, bool]:
    """Whether they need the reference's statistics, and its features."""
    found = set(metrics)
    return bool(found & {"fid", "fd"}), bool(found & {"kid", "pr"})


def check(metrics: Sequence[str], extractor: Extractor, n: int) -> None:
    """Checks that the metrics can be computed.

    Raises:
        RecipeError: A network gives no probabilities, or there are too few images.
    """
    if "is" in metrics and not extractor.classes:
        raise RecipeError(
            f"features '{extractor.name}' give no probabilities, so no inception score",
            "cmtool eval fd, kid or pr",
        )
    if "is" in metrics and n < 10:
        raise RecipeError(f"--n must be at least 10 for the inception score, got {n}", "--n 50000")
    if "pr" in metrics and n <= CROWD:
        raise RecipeError(f"--n must be above {CROWD} for coverage, got {n}", "--n 50000")


def figures(
    metrics: Sequence[str],
    vault: Vault,
    reference: Measured,
    extractor: Extractor,
    protocol: Protocol,
    repeats: int,
) -> Figures:
    """The figures by name, each with `value` and what is known of its error.

    Args:
        metrics: Names in METRICS.
        vault: Features of the images.
        reference: What they are held against.
        extractor: Whose features.
        protocol: Which definitions.
        repeats: Of the bootstrap; 0 is none.
    """
    found: Figures = {}
    rows = vault.rows()
    if {"fid", "fd"} & set(metrics):
        assert reference.gaussian is not None
        value = frechet_distance(vault.moments(protocol.ddof), reference.gaussian)
        figure: dict[str, Any] = {"value": value}
        if repeats:
            low, high, error = frechet_interval(rows, reference.gaussian, repeats=repeats)
            figure |= {"interval": [low, high], "error": error, "error_is": "bootstrap"}
        found[extractor.title("FD")] = figure
    if "kid" in metrics:
        assert reference.rows is not None
        value, error = kid(rows, reference.rows)
        ends = [value - NORMAL * error, value + NORMAL * error]
        figure = {"value": value, "interval": ends, "error": error, "error_is": "jackknife"}
        found[extractor.title("KID")] = figure
    if "is" in metrics:
        score = score_of_chunks if protocol.inception_score == "chunks" else score_of_splits
        mean, deviation = score(vault.rows("probabilities"))
        found[extractor.title("IS")] = {"value": mean, "deviation": deviation, "higher": True}
    if "pr" in metrics:
        assert reference.rows is not None
        whole, k = reference.rows, protocol.neighbours
        some = whole if protocol.references is None else _some(whole, protocol.references)
        near, crowd = prdc(some, rows, k), prdc(some, rows, CROWD)
        for name, value, neighbours in (
            ("precision", near.precision, k),
            ("recall", near.recall, k),
            ("density", crowd.density, CROWD),
            ("coverage", crowd.coverage, CROWD),
        ):
            more = {"k": neighbours, "references": len(some), "higher": True}
            found[extractor.title(name)] = {"value": value, **more}
    return found


def _some(rows: Any, count: int) -> Any:
    """So many rows, drawn once for all."""
    if len(rows) <= count:
        return rows
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:count])]


def notes(n: int, extractor: Extractor, metrics: Sequence[str], width: int) -> list[str]:
    """What stands beside figures of n images."""
    found = []
    if n < FULL:
        found.append(
            f"n = {n:,} is below {FULL:,}: not to be held against published figures, nor against "
            "another n"
        )
    if n <= width and {"fid", "fd"} & set(metrics):
        found.append(
            f"n = {n:,} images for {width:,} features: the covariance is rank-deficient, the "
            "distance biased upwards"
        )
    if extractor.random:
        found.append("the feature network has random weights: the figures mean nothing")
    return found
