"""The search for noise levels: within its tolerance, within its evaluations, also at the ends."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cmtool.metrics.search import BudgetSpent, Counted, greedy_times, ternary_search

places = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 1e-9, 1 - 1e-9]))
tolerances = st.floats(1e-4, 0.9)
powers = st.sampled_from([0.3, 1.0, 2.0, 6.0])


def bound(width, tol):
    """What the docstring promises."""
    ratio = width / tol
    if ratio <= 1:
        return 2
    return 2 + max(2, math.ceil(math.log(ratio) / math.log((1 + math.sqrt(5)) / 2)))


def ternary_bound(width, tol):
    """Of thirds: two evaluations for each cut to 2/3."""
    return 2 * math.ceil(math.log(width / tol) / math.log(1.5))


@given(places, tolerances, powers, powers, st.floats(1e-3, 1e3), st.floats(-50, 50),
       st.floats(0.1, 20))  # fmt: skip
def test_any_slopes_and_a_minimum_anywhere(place, tol, left, right, steep, low, width):
    at, tol = low + place * width, tol * width
    asked = []

    def f(x):
        asked.append(x)
        d = (x - at) / width
        return abs(d) ** left if d < 0 else steep * d**right

    best, values = ternary_search(f, low, low + width, tol)
    # Where powers underflow, neighbours are equal and both the least.
    assert len(asked) == len(values)
    assert abs(best - at) <= tol * (1 + 1e-6) or values[best] == f(at)
    assert len(values) <= bound(width, tol)
    if width / tol >= 2:
        assert len(values) <= max(ternary_bound(width, tol), 4)
    assert all(low <= x <= low + width for x in asked)


@given(st.floats(0, 0.5), st.floats(0.02, 0.5), st.floats(0.1, 0.9), st.floats(0, 1), tolerances)
@example(begin=0.5, size=0.125, share=0.5, height=1.0, tol=0.25)  # a valley that no point hits
def test_level_near_the_ends(begin, size, share, height, tol):
    """1 up to `begin`, a valley, then 1 + height: as a second level does that is too low or high to
    change the images."""
    end, at, asked = begin + size, begin + share * size, []

    def f(x):
        asked.append(x)
        if not begin < x < end:
            return 1.0 if x <= begin else 1 + height
        d = (x - at) / ((at - begin) if x < at else (end - at))
        return d * d if d < 0 else d * d * (1 + height)

    best, _ = ternary_search(f, 0, 1, tol)
    if 1 + height > 1:  # Otherwise nothing tells on which side of two equal points the valley is.
        assert abs(best - at) <= tol * (1 + 1e-9)
    assert len(asked) == len(set(asked))


@given(st.integers(1, 40), places)
def test_the_budget_is_kept_and_the_best_so_far_returned(budget, at):
    asked = []
    best, values = ternary_search(lambda x: asked.append(x) or abs(x - at), 0, 1, 1e-4, budget)
    assert len(asked) == len(values) <= budget
    assert values[best] == min(values.values())


def test_without_one_evaluation_there_is_no_best_point():
    with pytest.raises(BudgetSpent):
        ternary_search(abs, 0, 1, 0.1, budget=0)


def test_a_range_within_the_tolerance_is_its_better_end():
    assert ternary_search(lambda x: -x, 0, 1, 1) == (1, {0: 0, 1: -1})


def test_a_point_is_never_asked_twice():
    asked = []
    f = Counted(lambda x: asked.append(x) or 2 * x, {3.0: 7.0}, budget=2)
    assert [f(1.0), f(1.0), f(3.0), f(2.0), f(2.0)] == [2, 2, 7, 4, 4]
    with pytest.raises(BudgetSpent):
        f(4.0)
    assert (asked, f.used) == ([1.0, 2.0], 2)


# Levels.


class Separable:
    """Sum over the levels below the first of ln(level / best)^2, best when all are met."""

    def __init__(self, *best):
        self.best, self.asked = best, []

    def __call__(self, times):
        self.asked.append(times)
        return sum(math.log(t / b) ** 2 for t, b in zip(times[1:], self.best, strict=False))


levels = st.floats(0.002, 70)


@given(levels, st.floats(0.01, 0.5))
def test_two_levels(best, tol):
    metric = Separable(best)
    found = greedy_times(metric, 80.0, 0.002, 2, tol=tol)
    assert not found.spent
    assert found.times[0] == 80
    # Levels have four digits; the last one may not come nearer to the first than the tolerance.
    allowed = tol + max(0, math.log(best / 80) + tol) + 1e-3
    assert abs(math.log(found.times[1] / best)) <= allowed
    assert found.used == len(metric.asked) == len(set(metric.asked))
    assert all(0.002 <= t[1] < 80 for t in metric.asked)


@pytest.mark.parametrize("best", [(9.0, 0.4), (0.8, 0.002), (70.0, 69.0), (5.0, 1.0, 0.1)])
def test_more_levels(best):
    metric = Separable(*best)
    found = greedy_times(metric, 80.0, 0.002, 1 + len(best), tol=0.01)
    assert not found.spent
    for level, wanted in zip(found.times[1:], best, strict=True):
        assert level == pytest.approx(wanted, rel=0.02)
    for times in metric.asked:
        assert sorted(set(times), reverse=True) == list(times)
        assert times == (*found.times[: len(times) - 1], times[-1])  # earlier ones stay


@pytest.mark.parametrize("best", [0.002, 80 * math.exp(-0.01)])
def test_the_ends_are_found(best):
    found = greedy_times(Separable(best), 80.0, 0.002, 2, tol=0.01)
    assert found.times[1] == pytest.approx(best, rel=1e-3)


def test_no_room_below_the_smallest_level():
    found = greedy_times(Separable(0.002, 0.002), 80.0, 0.002, 3)
    assert (found.times, found.spent) == ((80.0, 0.002), False)


@given(levels, levels, st.integers(1, 40))
def test_a_stopped_search_goes_on_where_it_was(first, second, budget):
    whole, parts = Separable(first, second), Separable(first, second)
    expected = greedy_times(whole, 80.0, 0.002, 3)
    known, used = {}, 0
    for _ in range(50):
        found = greedy_times(parts, 80.0, 0.002, 3, known=known, budget=budget)
        assert found.used <= budget
        used += found.used
        known = {t: Separable(first, second)(t) for t in parts.asked}
        if not found.spent:
            break
    assert (found.times, found.spent) == (expected.times, False)
    assert parts.asked == whole.asked
    assert used == expected.used


def test_a_spent_budget_leaves_the_best_levels_so_far():
    metric = Separable(0.8, 0.1)
    found = greedy_times(metric, 80.0, 0.002, 3, budget=5)
    assert (found.used, found.spent, len(found.times)) == (5, True, 2)
    assert metric(found.times) == min(map(Separable(0.8), metric.asked))
