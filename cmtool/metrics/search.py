"""Noise levels for few-step sampling: one after another, each by a ternary search on a metric."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

GOLDEN = (math.sqrt(5) - 1) / 2
DIGITS = 4
"""Levels are rounded to so many digits, so that a level that is shown is the one that was tried."""

Times = tuple[float, ...]
Point = TypeVar("Point", float, Times)


class BudgetSpent(Exception):
    """No further evaluation is allowed."""


class Counted(Generic[Point]):
    """A function that is asked at most once at every point.

    Args:
        f: What to ask.
        known: Values that cost nothing.
        budget: Most evaluations of f; None is any number.
    """

    def __init__(
        self,
        f: Callable[[Point], float],
        known: Mapping[Point, float] | None = None,
        budget: int | None = None,
    ) -> None:
        self.f: Callable[[Point], float] = f
        self.values: dict[Point, float] = dict(known or {})
        self.budget = math.inf if budget is None else budget
        self.used = 0
        self.refused = False

    def __call__(self, point: Point) -> float:
        """The value there.

        Raises:
            BudgetSpent: It is not known, and may not be asked for.
        """
        if point not in self.values:
            if self.used >= self.budget:
                self.refused = True
                raise BudgetSpent
            self.values[point] = self.f(point)
            self.used += 1
        return self.values[point]


def ternary_search(
    f: Callable[[float], float], low: float, high: float, tol: float, budget: int | None = None
) -> tuple[float, dict[float, float]]:
    """Finds the minimum of a function that falls, then rises, on low .. high.

    Both ends are asked first, so that a minimum there is found exactly. Then the interval is cut in
    three and the outer part beyond the worse of the two inner points is dropped, again and again.
    The cuts are golden sections: one of the two inner points serves again, and an interval costs
    one evaluation where thirds cost two. In all there are at most 2 + max(2, ceil(ln((high - low) /
    tol) / ln 1.618)).

    The function may be level near its ends, as long as not all of the four points that are compared
    are equal.

    Source:
        Song et al. 2023, arXiv 2303.01469, Section 3 (which asks no end); the cuts: Kiefer 1953.

    Args:
        f: The function.
        low: Where to begin.
        high: Where to end, above `low`.
        tol: The result is at most so far from the minimum.
        budget: Most evaluations; with fewer than needed the result is the best point so far.

    Returns:
        The best point, and the values at all points that were asked.

    Raises:
        BudgetSpent: There is no best point, as not one evaluation was allowed.

    Example:
        >>> round(ternary_search(lambda x: (x - 2) ** 2, 0, 10, 0.01)[0], 2)
        2.0
    """
    counted = Counted(f, budget=budget)
    inner: tuple[float, ...] = ()
    with suppress(BudgetSpent):
        inner = _narrow(counted, low, high, tol)
    if not counted.values:
        raise BudgetSpent
    # Of equals the first: an end that is as good as the points inside may be far from the minimum.
    best = min((*inner, *counted.values), key=counted.values.__getitem__)
    return best, counted.values


def _narrow(f: Callable[[float], float], a: float, b: float, tol: float) -> tuple[float, ...]:
    """Asks f at a < m < n < b until one of them is within `tol` of the minimum; that one first."""
    at_a, at_b = f(a), f(b)
    if b - a <= tol:
        return ()
    m, n = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
    at_m, at_n = f(m), f(n)
    while True:
        # Of equal inner points the side that is level up to its end cannot hold the minimum.
        left = at_m < at_n or (at_m == at_n and (at_a < at_m or at_b == at_n))
        if (1 - GOLDEN) * (b - a) <= tol:
            return (m, n) if left else (n, m)
        if left:
            b, at_b, n, at_n = n, at_n, m, at_m
            m = b - GOLDEN * (b - a)
            at_m = f(m)
        else:
            a, at_a, m, at_m = m, at_m, n, at_n
            n = a + GOLDEN * (b - a)
            at_n = f(n)


@dataclass(frozen=True)
class Found:
    """What `greedy_times` found.

    Args:
        times: Decreasing noise levels, the first included; fewer than asked for if the budget was
            spent or there was no room.
        spent: Whether the budget ended the search; then the last level may be far from the best.
        used: New evaluations.
    """

    times: Times
    spent: bool
    used: int


def greedy_times(
    metric: Callable[[Times], float],
    start: float,
    low: float,
    steps: int,
    *,
    tol: float = 0.05,
    known: Mapping[Times, float] | None = None,
    budget: int | None = None,
) -> Found:
    """Finds noise levels that make a metric small, one after another from the noisiest down.

    Each is searched between the smallest level and the one before it, in ln(level), where equal
    distances are equal ratios; the earlier ones stay as they are. That is the best schedule if the
    metric falls, then rises, in every level, and the best level does not depend on later ones.

    Source:
        Song et al. 2023, arXiv 2303.01469, Section 3.

    Args:
        metric: What to make small, of decreasing noise levels (n,).
        start: The first level.
        low: The smallest level that is allowed.
        steps: How many levels, 2 or more.
        tol: Tolerance in ln(level), 0.001 or more: 0.05 is a level to about 5 %.
        known: Values of the metric that need no evaluation.
        budget: Most evaluations, 1 or more; None is any number.
    """
    counted = Counted(metric, known, budget)
    times: Times = (start,)
    while len(times) < steps and not counted.refused:
        bottom, top = math.log(low), math.log(times[-1]) - tol
        if top < bottom:
            break

        def value(w: float, before: Times = times) -> float:
            return counted((*before, _level(w, low)))

        try:
            best, _ = ternary_search(value, bottom, top, tol)
        except BudgetSpent:
            break
        times = (*times, _level(best, low))
    return Found(times, counted.refused, counted.used)


def _level(w: float, low: float) -> float:
    return max(low, float(f"{math.exp(w):.{DIGITS}g}"))
