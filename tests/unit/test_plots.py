"""A plot's points stand where the axes say."""

import numpy as np
import pytest

from cmtool.plots import COLOURS, Line, line_plot


def plot(lines, **more):
    return line_plot(lines, title="t", x_label="x", y_label="y", **more)


def places(picture, colour):
    """Rows and columns of a colour, which antialiasing leaves whole inside."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((picture == rgb).all(-1))


def middle(picture, colour, rows=300):
    """Centre of a colour above the legend."""
    found = places(picture[:rows], colour)
    return found.mean(0)


@pytest.mark.parametrize("log", [False, True])
def test_a_value_in_the_middle_stands_in_the_middle(log):
    x = [1, 100, 10] if log else [1, 9, 5]
    picture = plot([Line("", [a], [b]) for a, b in zip(x, x, strict=True)], log_x=log, log_y=log)
    low, high, between = (middle(picture, colour, 400) for colour in COLOURS[:3])
    assert between == pytest.approx((low + high) / 2, abs=1)
    assert low[0] > high[0]
    assert low[1] < high[1]


def test_a_mark_is_level_and_crosses_the_plot():
    picture = plot([Line("", [0, 1], [0, 1]), Line("", [0.5], [0.5], mark=True)])
    found = places(picture, COLOURS[1])
    assert np.ptp(found[:, 0]) <= 2
    assert np.ptp(found[:, 1]) > 500


def test_the_legend_stands_below_and_takes_the_rows_it_needs():
    curve = Line("", [0, 1], [0, 1])
    many = [Line(f"a rather long name of a model {i}", [0, 1], [0, 1]) for i in range(4)]
    bare, full = places(plot([curve]), COLOURS[0]), plot(many)
    for i, colour in enumerate(COLOURS[:4]):
        found = places(full, colour)
        assert found[:, 0].max() > 320 + 20 * (i // 3)
    assert bare[:, 0].max() > places(full[:300], COLOURS[3])[:, 0].max()


def test_what_is_not_finite_is_left_out():
    whole = plot([Line("", [1, 2], [3, 4])])
    assert (plot([Line("", [1, 1.5, 2], [3, float("nan"), 4])]) == whole).all()


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="a finite point"):
        plot([Line("", [float("inf")], [1])])
    with pytest.raises(ValueError, match="above 0"):
        plot([Line("", [0, 1], [1, 2])], log_x=True)


@pytest.mark.parametrize("values", [[5.0], [0.0], [1e-8, 2e-8], [1e6, 3e6], [-2.0, 2.0]])
def test_any_range_has_ticks(values):
    picture = plot([Line("", values, values)])
    assert picture.shape == (400, 640, 3)
    assert picture.dtype == np.uint8
    assert len(places(picture, "#dddddd")) > 500
