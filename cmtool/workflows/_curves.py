"""A log's values as curves in a page: thinned, with axes, drawn as SVG that needs no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmtool.plots import Axis
from cmtool.workflows._html import text
from cmtool.workflows._run_facts import Log, Series

MOST_POINTS = 240
"""Of one curve; the values of a longer log are drawn as means with their range."""
MOST_TICKS = 8
SPREAD = 10.0
"""From this ratio of largest to least value on an axis is logarithmic."""
LINEAR = ("lr", "images/s", "mu")
NAMES = {
    "loss": "loss",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "N": "N(k), noise levels",
    "mu": "mu(k), decay of the target",
    "images/s": "throughput, images/s",
}
ORDER = ("loss", "N", "mu", "grad_norm", "lr", "images/s")
"""These first; others follow as they are in the log."""


@dataclass(frozen=True)
class Curve:
    """One logged value against steps.

    Args:
        name: Its key in the log.
        steps: Of the points.
        values: What was logged; where a point stands for several lines, their mean.
        low: The least of each point's lines.
        high: The largest.
        lines: Of the log.
        x: Across, 0 .. 100.
        y: Up, 100 .. 0.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    lines: int
    x: Axis
    y: Axis

    @property
    def title(self) -> str:
        """In words."""
        return NAMES.get(self.name, self.name)

    @property
    def thinned(self) -> bool:
        """Whether points stand for several lines."""
        return len(self.steps) < self.lines


def curves_of(log: Log, batch_size: int | None, last: int) -> tuple[list[Curve], dict[str, float]]:
    """What to draw, and what is the same in every line.

    Args:
        log: A run's.
        batch_size: Images of a step, for the throughput; None leaves that out.
        last: Where the axis ends, in steps.
    """
    series = dict(log.series)
    seconds = series.pop("seconds", Series())
    rate = Series()
    for step, value in zip(seconds.steps, seconds.values, strict=True):
        if batch_size is not None and value > 0:
            rate.add(int(step), batch_size / value)
    series["images/s"] = rate
    names = [name for name in ORDER if name in series]
    names += [name for name in series if name not in names]
    curves, constant = [], {}
    for name in names:
        found = series[name]
        if len(found.steps) > 1 and min(found.values) == max(found.values):
            constant[name] = found.values[0]
        elif found.steps:
            curves.append(_curve(name, found, last))
    return curves, constant


def _curve(name: str, series: Series, last: int) -> Curve:
    steps, means, low, high = thin(series.steps, series.values)
    log = name not in LINEAR and min(low) > 0 and max(high) > SPREAD * min(low)
    return Curve(
        name=name,
        steps=steps,
        values=means,
        low=low,
        high=high,
        lines=len(series.steps),
        x=Axis("step", 0.0, max(float(last), series.steps[-1], 1.0), False, (0.0, 100.0)),
        y=_upright(min(low), max(high), log),
    )


def thin(
    steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float], list[float], list[float]]:
    """At most so many points: the last step, the mean, the least and the largest of neighbours.

    Example:
        >>> thin([1, 2, 3, 4], [5.0, 7.0, 1.0, 2.0], most=2)
        ([2.0, 4.0], [6.0, 1.5], [5.0, 1.0], [7.0, 2.0])
    """
    size = math.ceil(len(steps) / most)
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    starts = np.arange(0, len(x), size)
    counts = np.diff(np.append(starts, len(x)))
    ends = starts + counts - 1
    means = np.add.reduceat(y / np.repeat(counts, counts), starts)
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    means = y if size == 1 else np.clip(means, low, high)
    return x[ends].tolist(), means.tolist(), low.tolist(), high.tolist()


def _upright(low: float, high: float, log: bool) -> Axis:
    if log:
        margin = (high / low) ** 0.05
        return Axis("", low / margin, high * margin, True, (100.0, 0.0))
    margin = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    return Axis("", low - margin, high + margin, False, (100.0, 0.0))


def figure(curve: Curve, number: int) -> str:
    """A curve as HTML: the lines stretch with the page, the words do not."""
    title = text(curve.title)
    scale = ", logarithmic" if curve.y.log else ""
    ends = f"{curve.values[0]:.4g} at step {curve.steps[0]:,.0f}, {_now(curve)}"
    said = (
        f"{title} against steps: {ends}, least {min(curve.low):.4g}, largest {max(curve.high):.4g}"
    )
    rows = "".join(_tick(curve.y, tick, "y", f"{tick:,.6g}") for tick in _ticks(curve.y))
    columns = "".join(_tick(curve.x, tick, "x", _short(tick)) for tick in _apart(curve.x))
    lone = " lone" if len(curve.steps) == 1 else ""
    band = f'<path class="band" d="{_band(curve)}"/>' if curve.thinned else ""
    return (
        f'<figure class="curve"><figcaption><h3>{title}'
        f"<small>{scale}</small></h3>"
        f'<output data-rest="{_now(curve)}">{_now(curve)}</output></figcaption>'
        f'<div class="plot" tabindex="0" role="slider" data-curve="{number}" '
        f'aria-label="{said}" aria-valuemin="0" '
        f'aria-valuemax="{len(curve.steps) - 1}" aria-valuenow="{len(curve.steps) - 1}" '
        f'aria-valuetext="{_now(curve)}">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="rules" d="{_rules(curve)}"/>{band}'
        f'<path class="line{lone}" d="{_line(curve)}"/></svg>{rows}{columns}'
        '<i class="cursor" hidden></i><i class="dot" hidden></i></div></figure>'
    )


def drawn(curve: Curve) -> dict[str, object]:
    """What the page's script needs of a curve to tell values under the pointer."""
    places = [[round(curve.x(s), 3), round(curve.y(v), 3)] for s, v in _points(curve)]
    found: dict[str, object] = {"steps": curve.steps, "values": curve.values, "at": places}
    return found | ({"low": curve.low, "high": curve.high} if curve.thinned else {})


def _points(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.steps, curve.values, strict=True))


def _now(curve: Curve) -> str:
    return f"{curve.values[-1]:.4g} at step {curve.steps[-1]:,.0f}"


def _line(curve: Curve) -> str:
    points = [f"{curve.x(s):.3f} {curve.y(v):.3f}" for s, v in _points(curve)]
    # A lone point becomes a dot by the line's round ends.
    return f"M{points[0]}h.01" if len(points) == 1 else f"M{'L'.join(points)}"


def _band(curve: Curve) -> str:
    upper = [
        f"{curve.x(s):.3f} {curve.y(v):.3f}" for s, v in zip(curve.steps, curve.high, strict=True)
    ]
    lower = [
        f"{curve.x(s):.3f} {curve.y(v):.3f}" for s, v in zip(curve.steps, curve.low, strict=True)
    ]
    return f"M{'L'.join([*upper, *reversed(lower)])}Z"


def _rules(curve: Curve) -> str:
    across = "".join(f"M0 {curve.y(tick):.2f}H100" for tick in _ticks(curve.y))
    return across + "".join(f"M{curve.x(tick):.2f} 0V100" for tick in _apart(curve.x))


def _ticks(axis: Axis) -> list[float]:
    found = axis.ticks()
    return found[:: math.ceil(len(found) / MOST_TICKS) or 1]


def _apart(x: Axis) -> list[float]:
    return [tick for tick in _ticks(x) if x(tick) <= 96]


def _tick(axis: Axis, tick: float, which: str, label: str) -> str:
    side = "left" if which == "x" else "top"
    return f'<span class="{which}" style="{side}:{axis(tick):.2f}%">{label}</span>'


def _short(step: float) -> str:
    """Steps in few letters.

    Example:
        >>> _short(400_000), _short(2_500), _short(50)
        ('400k', '2.5k', '50')
    """
    return f"{step / 1000:,g}k" if step >= 1000 else f"{step:g}"
