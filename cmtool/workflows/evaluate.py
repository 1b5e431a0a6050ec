"""`cmtool eval`: how good a model's images are, as one number."""

from dataclasses import dataclass
from typing import Any

from cmtool.errors import RecipeError, Say, did_you_mean, silent
from cmtool.workflows._draw import plan_for
from cmtool.workflows._evaluate import (
    FEATURES,
    FrechetDistance,
    Progress,
    open_subject,
)
from cmtool.workflows._evaluate import Request as Request
from cmtool.workflows._times import parse_times


@dataclass(frozen=True)
class Score:
    """A figure and all that it depends on."""

    metric: str
    value: float
    settings: dict[str, Any]

    def __str__(self) -> str:
        s = self.settings
        return (
            f"{self.metric} {self.value:.4g}  ({s['plan']}; {s['n']:,} images of seed {s['seed']} "
            f"against {s['reference']['images']:,} of {s['reference']['name']})"
        )


def frechet(
    request: Request,
    features: str = "pixel",
    steps: int | None = None,
    times: str | None = None,
    *,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> Score:
    """The Frechet distance between a model's images and a data set's, in a feature space.

    Args:
        request: Which model, which data, how many images.
        features: "pixel" compares the pixels themselves: FD-pixel.
        steps: Network evaluations for each image.
        times: Noise levels instead, as typed.
        say: Is told what is evaluated how.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: Model or data cannot be opened, or not be sampled so.
    """
    if features not in FEATURES:
        raise RecipeError(
            f"unknown features '{features}'{did_you_mean(features, FEATURES)}",
            f"one of {', '.join(FEATURES)}",
        )
    subject = open_subject(request, say)
    model = subject.denoiser
    levels = None if times is None else parse_times(times, model.precond.sigma_data)
    plan = plan_for(model, steps, levels)
    say(f"{model.kind} model {subject.model.source}: {plan}")
    value = FrechetDistance(subject, features, progress)(plan)
    settings = subject.settings() | {"plan": str(plan), "times": plan.times.tolist()}
    return Score(f"FD-{features}", value, settings)
