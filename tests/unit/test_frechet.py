"""The Frechet distance against closed forms and SciPy's matrix square root."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmtool.metrics.frechet import Moments, Running, frechet_distance, pixel_features


def _moments(seed, n, d):
    rng = np.random.default_rng(seed)
    return Moments.of(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d))


def test_in_one_dimension_it_is_the_textbook_formula():
    a, b = Moments(np.zeros(1), np.eye(1) * 4.0, 10), Moments(np.ones(1), np.eye(1) * 9.0, 10)
    assert frechet_distance(a, b) == pytest.approx(1 + (2 - 3) ** 2)


def test_commuting_covariances_have_a_closed_form():
    s, t = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 16.0])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    a = Moments(np.zeros(3), turn * s @ turn.T, 10)
    b = Moments(np.zeros(3), turn * t @ turn.T, 10)
    assert frechet_distance(a, b) == pytest.approx(np.square(np.sqrt(s) - np.sqrt(t)).sum())


def test_equals_the_matrix_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = _moments(0, 500, 16), _moments(1, 400, 16)
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 1000), st.integers(2, 40), st.integers(1, 12))
def test_symmetric_zero_on_itself_and_never_negative(seed, n, d):
    a, b = _moments(seed, n, d), _moments(seed + 1, n + 3, d)
    scale = np.trace(a.covariance) + np.trace(b.covariance)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-6 * scale)
    assert abs(frechet_distance(a, a)) <= 1e-6 * scale
    assert frechet_distance(a, b) >= -1e-6 * scale


def test_pixels_are_features_in_unit_range():
    images = np.array([[[[0, 255], [51, 102]]]], np.uint8)
    assert pixel_features(images).tolist() == [[0.0, 1.0, 0.2, 0.4]]


def test_one_vector_has_no_moments():
    with pytest.raises(ValueError, match="two or more finite"):
        Moments.of(np.zeros((1, 4)))


@given(st.integers(0, 1000), st.lists(st.integers(0, 9), min_size=1), st.sampled_from([0, 1e4]))
def test_parts_have_the_moments_of_the_whole(seed, sizes, far):
    parts = [np.random.default_rng((seed, i)).normal(far, 1, (n, 5)) for i, n in enumerate(sizes)]
    running = Running()
    for part in parts:
        running.add(part)
    if sum(sizes) < 2:
        with pytest.raises(ValueError, match="two or more finite"):
            running.moments()
        return
    whole, streamed = Moments.of(np.concatenate(parts)), running.moments()
    assert streamed.n == whole.n
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(streamed.covariance, whole.covariance, rtol=1e-9, atol=1e-9)


def test_a_part_that_is_not_finite_is_noticed():
    running = Running()
    running.add(np.array([[1.0, np.nan], [0.0, 1.0], [2.0, 3.0]]))
    with pytest.raises(ValueError, match="two or more finite"):
        running.moments()
