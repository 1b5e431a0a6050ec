"""The arithmetic of the measures: against 50 digits, known answers and sums over all pairs."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmtool.metrics import bootstrap, kid, prdc
from cmtool.metrics.frechet import BLOCK, Moments, Rooted, Running, frechet_distance
from cmtool.metrics.inception_score import probabilities, score_of_chunks, score_of_splits

TOLERANCE = 1e-6
"""Of tr S1 + tr S2 + |m1 - m2|^2."""


def running(features, block=None):
    found = Running()
    for start in range(0, len(features), block or len(features)):
        found.add(features[start : start + (block or len(features))])
    return found


def streamed(features):
    return running(features).moments()


def scale(a, b):
    return a.variance + b.variance + np.square(a.mean - b.mean).sum()


def assert_is(found, truth, a, b):
    assert abs(found - truth) <= TOLERANCE * scale(a, b)


def turned(seed, d):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def mirror(seed, d):
    """A reflection as a function of (n, d): a turn that costs little in many dimensions."""
    v = np.random.default_rng(seed).normal(size=d)
    v /= np.linalg.norm(v)
    return lambda x: x - 2 * np.outer(x @ v, v)


# The distance against 50 digits.


def exact_distance(x, y):
    """From the features themselves to the end in 50 digits, by another formula than ours."""
    mp = pytest.importorskip("mpmath").mp
    with mp.workdps(50):
        means, covariances = [], []
        for features in (x, y):
            rows = mp.matrix(features.tolist())
            n, d = rows.rows, rows.cols
            mean = [mp.fsum(rows[i, j] for i in range(n)) / n for j in range(d)]
            centred = mp.matrix(n, d)
            for i in range(n):
                for j in range(d):
                    centred[i, j] = rows[i, j] - mean[j]
            means.append(mean)
            covariances.append(centred.T * centred / (n - 1))
        values, vectors = mp.eigsy(covariances[0])
        root = vectors * mp.diag([mp.sqrt(max(value, 0)) for value in values])
        inner = root.T * covariances[1] * root
        cross = mp.fsum(mp.sqrt(max(v, 0)) for v in mp.eigsy((inner + inner.T) / 2)[0])
        shift = mp.fsum((a - b) ** 2 for a, b in zip(*means, strict=True))
        traces = mp.fsum(c[i, i] for c in covariances for i in range(c.rows))
        return float(shift + traces - 2 * cross)


def _sets(d):
    """Pairs of feature sets that are hard, each its own way."""
    rng = np.random.default_rng(d)
    x = rng.normal(size=(3 * d, d)) + 3
    narrow = x * 10.0 ** -np.linspace(0, 9, d)
    low = rng.normal(size=(2 * d, 3)) @ rng.normal(size=(3, d))
    twins = 1e3 * np.tile(rng.normal(size=(2 * d, d // 2)), 2)
    return {
        "plain": (x, 1.5 * rng.normal(size=(2 * d, d))),
        "float32": (x.astype(np.float32), np.square(x[: 2 * d]).astype(np.float32)),
        "ill-conditioned": (narrow, narrow[: 2 * d] @ turned(0, d)),
        "ill-conditioned, the same": (narrow, narrow),
        "fewer than dimensions": (x[: d // 2], x[d // 2 : d] ** 2),
        "fewer against more": (x[: d // 2], x),
        "two": (x[:2], x[2:4]),
        "two, the same": (x[:2], x[:2]),
        "low rank": (low, rng.normal(size=(2 * d, 3)) @ rng.normal(size=(3, d))),
        "low rank, the same": (low, low),
        "dead dimensions": (x * (np.arange(d) < d // 2), x * (np.arange(d) >= d // 4)),
        "twin dimensions, large": (twins, twins[::-1] + 1),
        "far from nought": (x + 1e4, x - 1e4),
    }


@pytest.mark.parametrize("name", _sets(4))
@pytest.mark.parametrize("d", [12, pytest.param(64, marks=pytest.mark.slow)])
def test_the_distance_is_right_to_50_digits(d, name):
    x, y = _sets(d)[name]
    a, b = streamed(x), streamed(y)
    truth = exact_distance(x.astype(np.float64), y.astype(np.float64))
    assert_is(frechet_distance(a, b), truth, a, b)
    assert_is(frechet_distance(b, a), truth, a, b)
    assert_is(frechet_distance(Moments.of(x), Moments.of(y)), truth, a, b)
    assert_is(frechet_distance(a.rooted(), b), truth, a, b)
    assert_is(frechet_distance(a.rooted(), b.rooted()), truth, a, b)


# The distance in constructions whose answer is known.


@pytest.mark.slow
@pytest.mark.parametrize("first", ["flat", "power", "steep", "half", "one"])
def test_covariances_that_commute_in_2048_dimensions(first):
    d = 2048
    i = np.arange(1, d + 1.0)
    spectra = {
        "flat": np.ones(d),
        "power": i**-2,
        "steep": i**-6,
        "half": np.where(i < d / 2, 1 / i, 0),
        "one": np.where(i == 1, 1.0, 0),
    }
    turn, mean = turned(0, d), np.arange(d) / d
    s = spectra[first]
    for t in (s, s[::-1], np.ones(d) / d, spectra["power"]):
        a = Moments(np.zeros(d), (turn * s) @ turn.T, 0)
        b = Moments(mean, (turn * t) @ turn.T, 0)
        truth = np.square(np.sqrt(s) - np.sqrt(t)).sum() + np.square(mean).sum()
        assert_is(frechet_distance(a, b), truth, a, b)
        assert_is(frechet_distance(a, b.rooted()), truth, a, b)


@pytest.mark.parametrize(
    ("n", "d", "rank"),
    [
        (300, 40, 40),
        (300, 40, 5),
        (20, 256, 256),
        pytest.param(50_000, 2048, 2048, marks=pytest.mark.slow),
        pytest.param(50_000, 2048, 700, marks=pytest.mark.slow),
        pytest.param(900, 2048, 2048, marks=pytest.mark.slow),
    ],
)
def test_a_symmetric_map_moves_features_by_its_own_length(n, d, rank):
    # For a positive semi-definite P the way from x to P x + c is the shortest there is, so that
    # the distance is the mean square of how far each x goes; the covariances do not commute.
    rng = np.random.default_rng(n + rank)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * 10.0 ** -np.linspace(0, 3, d)
    turn = turned(1, d)[:, :rank]
    y = x @ (turn * np.linspace(0.1, 2, rank)) @ turn.T + 0.5
    way = y - x
    shift = way.mean(0)
    truth = np.square(shift).sum() + np.square(way - shift).sum() / (n - 1)
    a, b = streamed(x), streamed(y)
    assert isinstance(a, Moments if n >= d else Rooted)
    assert_is(frechet_distance(a, b), truth, a, b)
    assert_is(frechet_distance(a, b.rooted()), truth, a, b)


def test_few_samples_in_2048_dimensions():
    # Two vectors m +- a_i e_i for each of 20 dimensions have the covariance 2 a_i^2 / 39 there.
    d, k = 2048, 20
    sizes, turn = np.linspace(1, 3, k), mirror(0, d)
    rows = np.zeros((2 * k, d))
    rows[np.arange(k), np.arange(k)] = sizes
    rows[k + np.arange(k), np.arange(k)] = -sizes
    sample = streamed(turn(rows + 0.1))
    s = np.zeros(d)
    s[:k] = 2 * sizes**2 / (2 * k - 1)
    t = 1 / np.arange(1, d + 1.0)
    reference = Rooted(np.zeros(d), turn(np.diag(np.sqrt(t))).T, 0)
    truth = np.square(np.sqrt(s) - np.sqrt(t)).sum() + d * 0.01
    assert_is(frechet_distance(sample, reference), truth, sample, reference)


def test_sets_without_any_spread():
    same, far = streamed(np.ones((5, 8))), streamed(np.full((9, 8), 2.0))
    assert frechet_distance(same, same) == 0
    assert frechet_distance(same, far) == 8
    assert frechet_distance(Moments.of(np.ones((5, 8))), far.rooted()) == 8


def test_what_cannot_be_compared():
    a = Moments(np.zeros(2), np.eye(2), 9)
    with pytest.raises(ValueError, match="2 and of 3 dimensions"):
        frechet_distance(a, Moments(np.zeros(3), np.eye(3), 9))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(a, Moments(np.array([0, np.nan]), np.eye(2), 9))


# Laws of the distance.

SHAPES = st.tuples(
    st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 40), st.integers(1, 24)
)


@st.composite
def pairs(draw):
    """Two feature sets (n, d), (m, d): any rank, scales over up to eight decades, any mean."""
    seed, n, m, d = draw(SHAPES)
    decades, rank, size = draw(st.tuples(st.floats(0, 8), st.integers(1, d), st.floats(-3, 3)))
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(rank, d)) * 10.0 ** -np.linspace(0, decades, d)
    return tuple(
        (rng.normal(size=(k, rank)) @ spread + rng.normal(size=d)) * 10**size for k in (n, m)
    )


@given(pairs())
def test_symmetric_never_negative_and_nought_on_equal_sets(sets):
    a, b = map(streamed, sets)
    found, room = frechet_distance(a, b), TOLERANCE * scale(a, b)
    assert abs(found - frechet_distance(b, a)) <= room
    assert found >= -room
    for one in (a, b):
        assert abs(frechet_distance(one, one)) <= TOLERANCE * one.variance
        assert abs(frechet_distance(one, one.rooted())) <= TOLERANCE * one.variance


@given(pairs(), st.integers(0, 100))
def test_a_turn_and_a_move_of_both_change_nothing(sets, seed):
    a, b = map(streamed, sets)
    d = sets[0].shape[1]
    other = [streamed(x @ turned(seed, d) + 3) for x in sets]
    assert frechet_distance(*other) == pytest.approx(
        frechet_distance(a, b), abs=TOLERANCE * scale(a, b)
    )


@given(pairs())
def test_thin_and_full_are_the_same(sets):
    a, b = map(streamed, sets)
    full = frechet_distance(*map(Moments.of, sets))
    assert frechet_distance(a, b) == pytest.approx(full, abs=TOLERANCE * scale(a, b))


@given(pairs())
def test_a_root_is_a_root(sets):
    for x in sets:
        whole = Moments.of(x)
        for root in (whole.rooted(), streamed(x).rooted()):
            error = np.abs(root.covariance - whole.covariance).max()
            assert error <= 1e-12 * whole.variance
            assert root.variance == pytest.approx(whole.variance, rel=1e-9)


# Moments in parts.


@given(pairs(), st.integers(1, 60), st.sampled_from([0, 1]))
def test_two_processes_have_the_moments_of_one(sets, block, ddof):
    parts = [pickle.loads(pickle.dumps(running(x, block))) for x in sets]
    parts[0].merge(parts[1])
    parts[0].merge(Running())
    whole = np.concatenate(sets)
    expected, found = Moments.of(whole, ddof), parts[0].moments(ddof)
    assert found.n == len(whole)
    size = np.abs(whole).max()
    np.testing.assert_allclose(found.mean, expected.mean, rtol=0, atol=1e-13 * size)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=0, atol=1e-13 * size**2)


@pytest.mark.parametrize("sizes", [(1500, 2600), (3, 2600), (2600, 3), (0, 2600), (700, 800)])
def test_blocks_and_rests_of_two_processes_are_joined(sizes):
    rng = np.random.default_rng(0)
    sets = [rng.normal(5 * i, 1 + i, (n, 6)) for i, n in enumerate(sizes)]
    first, second = (running(x, 100) if len(x) else Running() for x in sets)
    kept = second.moments()
    first.merge(second)
    whole = Moments.of(np.concatenate(sets))
    np.testing.assert_allclose(first.moments().mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(first.moments().covariance, whole.covariance, rtol=1e-11)
    assert first.moments().n == sum(sizes)
    np.testing.assert_array_equal(kept.covariance, second.moments().covariance)
    first.add(sets[1])
    assert first.moments().n == sum(sizes) + sizes[1]


def test_population_covariance_is_numpys():
    x = np.random.default_rng(0).normal(size=(30, 4))
    for ddof in (0, 1):
        expected = np.cov(x, rowvar=False, ddof=ddof)
        np.testing.assert_allclose(running(x).moments(ddof).covariance, expected)
        np.testing.assert_allclose(running(x.T).moments(ddof).covariance, np.cov(x, ddof=ddof))


def test_a_large_mean_costs_no_digits():
    x = np.random.default_rng(0).normal(size=(5000, 3))
    found, expected = running(x + 1e6, 7).moments(), Moments.of(x)
    np.testing.assert_allclose(found.covariance, expected.covariance, atol=1e-8)


def test_covariances_grow_by_a_thousand_rows_or_more(monkeypatch):
    joined, join = [], Running._join
    monkeypatch.setattr(
        Running, "_join", lambda self, n, *of: (joined.append(n), join(self, n, *of))
    )
    found = running(np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32), 64)
    assert found.moments().n == 5000
    assert joined[:-1]
    assert min(joined[:-1]) >= BLOCK


def test_memory_does_not_grow_with_the_number():
    def peak(parts):
        found, part = Running(), np.ones((500, 300), np.float32)
        tracemalloc.start()
        for _ in range(parts):
            found.add(part)
        found.moments()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(60) < 1.05 * peak(12)


def test_thin_distances_make_no_large_matrix():
    # Neither 2048 x 2048 nor 1400 x 1400.
    rng = np.random.default_rng(0)
    sets = [streamed(rng.normal(size=(n, 2048)).astype(np.float32)) for n in (1400, 5)]
    for a, b in (sets, sets[::-1]):
        tracemalloc.start()
        frechet_distance(a, b)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert used < 2 * 1400 * 2048  # a quarter of one set's own


def test_features_may_be_overwritten_when_they_are_taken():
    buffer, found = np.ones((4, 9)), Running()
    found.add(buffer)
    buffer[:] = 7
    found.add(buffer)
    np.testing.assert_array_equal(found.moments().mean, 4)


def test_what_is_no_matrix_or_of_another_width_is_refused():
    found = running(np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"needs features \(n, 4\)"):
        found.add(np.zeros((3, 5)))
    with pytest.raises(ValueError, match="needs features"):
        found.add(np.zeros(4))
    with pytest.raises(ValueError, match=r"needs features \(n, 4\)"):
        found.merge(running(np.zeros((BLOCK, 5))))
    few = running(np.array([[0.0, np.inf, 1.0, 1.0]] * 3))
    with pytest.raises(ValueError, match="finite"), np.errstate(invalid="ignore"):
        few.moments()


# KID.


def pair_sums(x, y):
    """The unbiased estimate from every pair by itself."""

    def mean(a, b, same):
        return np.mean(
            [
                (float(u @ v) / len(u) + 1) ** 3
                for i, u in enumerate(a)
                for j, v in enumerate(b)
                if not (same and i == j)
            ]
        )

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(kid, "TILE", 3)
    monkeypatch.setattr(prdc, "TILE", 3)


@pytest.mark.usefixtures("small_tiles")
def test_kid_is_the_mean_over_all_pairs_and_its_error_the_jackknife():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(11, 3)) + 0.5
    found = kid.kid(x, y)
    assert found.value == pytest.approx(pair_sums(x, y), rel=1e-12)
    variance = 0.0
    for of, other, order in ((x, y, 1), (y, x, -1)):
        left = [pair_sums(*(np.delete(of, i, 0), other)[::order]) for i in range(len(of))]
        variance += (len(of) - 1) * np.var(left)
    assert found.spread == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_kid_by_hand():
    # d = 1: k(0, v) = 1, k(1, 1) = 8.
    zeros, ones = np.zeros((3, 1)), np.ones((4, 1))
    assert kid.kid(zeros, ones) == (1 + 8 - 2, 0)
    assert kid.kid(zeros, zeros) == (0, 0)
    assert kid.kid_of_subsets(zeros, ones, subsets=2, size=2) == (7, 0)
    with pytest.raises(ValueError, match="three or more"):
        kid.kid(zeros[:2], ones)
    with pytest.raises(ValueError, match="subsets of 4 need"):
        kid.kid_of_subsets(zeros, ones, size=4)
    with pytest.raises(ValueError, match="not finite"):
        kid.kid(zeros, ones * np.nan)
    with pytest.raises(ValueError, match="needs features"):
        kid.kid(zeros, np.zeros((3, 2)))


@given(pairs())
def test_kid_is_symmetric_and_blind_to_turns(sets):
    x, y = (np.concatenate((x, x[::-1] * 0.5)) / max(1, np.abs(x).max()) for x in sets)
    turn = turned(0, x.shape[1])
    assert kid.kid(x, y) == pytest.approx(kid.kid(y, x), abs=1e-12)
    assert kid.kid(x @ turn, y @ turn) == pytest.approx(kid.kid(x, y), abs=1e-9)


# Inception score.


def test_inception_score_by_hand():
    assert score_of_chunks(np.full((6, 4), 0.25)) == (1, 0)
    assert score_of_chunks(np.eye(4)) == pytest.approx((4, 0))
    # p = (3/4, 1/4) and back: KL from (1/2, 1/2) is 3/4 ln 3/2 + 1/4 ln 1/2.
    p = np.array([[0.75, 0.25], [0.25, 0.75]])
    expected = 1.5**0.75 * 0.5**0.25
    assert score_of_chunks(p).mean == pytest.approx(expected)
    assert score_of_splits(p, splits=1).mean == pytest.approx(expected)


def test_chunks_are_taken_in_order_and_the_last_may_be_short():
    p = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0.75, 0.25], [0.25, 0.75], [1, 0]])
    scores = [2, 1, 1.5**0.75 * 0.5**0.25, 1]
    assert score_of_chunks(p, size=2) == pytest.approx((np.mean(scores), np.std(scores)))
    # ADM: chunks of 5,000. The first holds one class only, the second both.
    many = np.eye(2)[np.concatenate((np.zeros(5000, int), np.arange(5000) % 2))]
    assert score_of_chunks(many) == pytest.approx((1.5, 0.5))


def test_logits_become_probabilities_once():
    logits = np.array([[0, np.log(3)], [1000, 1000]])
    np.testing.assert_allclose(probabilities(logits), [[0.25, 0.75], [0.5, 0.5]], rtol=1e-15)
    with pytest.raises(ValueError, match="no logits"):
        score_of_chunks(logits)
    with pytest.raises(ValueError, match="3 parts need 3 images"):
        score_of_splits(probabilities(logits), splits=3)
    with pytest.raises(ValueError, match="needs probabilities"):
        score_of_chunks(np.zeros((0, 4)))


# Precision, recall, density, coverage.


@pytest.mark.parametrize("move", [0.0, 1e7])
@pytest.mark.parametrize("tile", [2048, 2])
def test_neighbours_by_hand(monkeypatch, move, tile):
    monkeypatch.setattr(prdc, "TILE", tile)
    # k = 1. Balls of the references: 0 -> 1, 1 -> 1, 3 -> 2, 10 -> 7; the last reaches down to 3.
    reference = np.array([0.0, 1, 3, 10])[:, None] + move
    # Balls of the samples: -1 -> 3, 2 -> 3, 17 -> 1, 18 -> 1, 40 -> 22.
    samples = np.array([-1.0, 2, 17, 18, 40])[:, None] + move
    found = prdc.prdc(reference, samples, 1)
    # On a ball's edge is inside: -1 (of 0), 2 (of 1 and 3), 17 (of 10).
    assert found.precision == 3 / 5
    assert found.density == (1 + 2 + 1 + 0 + 0) / 5
    assert found.coverage == 1
    # 0, 1 and 3 lie in balls of -1 or 2; 10 is 7 away from 17 and 8 from 2.
    assert found.recall == 3 / 4


def test_unequal_sizes_as_openais_evaluator():
    # 4 references, 8 samples, k = 3: every radius goes to the third neighbour, itself left out.
    reference = np.array([[0.0, 0], [3, 0], [0, 4], [3, 4]])  # radii 5
    samples = np.array([[0.0, 5], [0, -5], [-4, -4], [8, 0]] + [[100.0, 100 + i] for i in range(4)])
    found = prdc.prdc(reference, samples)
    # (-4, -4) is 32^(1/2) > 5 from the nearest reference.
    assert found.precision == 3 / 8
    assert found.recall == 1
    assert found.coverage == 1


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(0, 10**9))
def test_whole_numbers_have_exact_distances_and_edges_count(seed, k, move):
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 5, (n, 3)) + move for n in (31, 23))
    squares = lambda a, b: np.square(a[:, None] - b[None]).sum(-1)  # noqa: E731
    ball, sample_ball = (np.sort(squares(z, z), 1)[:, k] for z in (x, y))
    inside = squares(x, y) <= ball[:, None]
    recalled = (squares(x, y) <= sample_ball).any(1)
    expected = inside.any(0).mean(), recalled.mean(), inside.sum() / (k * 23), inside.any(1).mean()
    assert prdc.prdc(x, y, k) == pytest.approx(expected, rel=1e-12)


@given(pairs(), st.integers(1, 3))
def test_neighbours_against_all_distances(sets, k):
    x, y = (np.concatenate((x, x + 1, x * 2)) for x in sets)
    distance = lambda a, b: np.sqrt(np.square(a[:, None] - b[None]).sum(-1))  # noqa: E731
    ball, sample_ball = (np.sort(distance(z, z), 1)[:, k] for z in (x, y))
    cross = distance(x, y)
    inside = cross <= ball[:, None]
    near = np.abs(cross - ball[:, None]).min() < 1e-9 * cross.max()
    if near or np.abs(cross - sample_ball).min() < 1e-9 * cross.max():
        return
    assert prdc.prdc(x, y, k) == pytest.approx(
        (
            inside.any(0).mean(),
            (cross <= sample_ball).any(1).mean(),
            inside.sum() / (k * len(y)),
            inside.any(1).mean(),
        )
    )


def test_a_set_is_wholly_inside_itself():
    x = np.random.default_rng(0).normal(size=(50, 4))
    assert prdc.prdc(x, x) == pytest.approx((1, 1, prdc.prdc(x, x).density, 1))
    with pytest.raises(ValueError, match="k = 50 needs 1"):
        prdc.prdc(x, x, 50)


# Intervals.


@given(pairs(), st.integers(0, 100))
def test_counts_are_copies(sets, seed):
    x, _ = sets
    counts = bootstrap._counts(len(x), 1, seed)[0]
    found, expected = (
        bootstrap.reweighted(x, counts),
        Moments.of(np.repeat(x, counts.astype(int), 0)),
    )
    size = np.abs(x).max()
    assert found.n == expected.n == len(x)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=0, atol=1e-13 * size)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=0, atol=1e-13 * size**2)


@pytest.mark.usefixtures("small_tiles")
def test_a_drawn_kid_is_the_mean_over_pairs_of_different_vectors():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 1
    found = bootstrap.kid_interval(x, y, repeats=3, seed=4, level=1 - 1e-12)
    drawn = []
    for u, v in zip(*(bootstrap._counts(n, 3, 4, i) for i, n in enumerate((7, 5))), strict=True):
        total = 0.0
        for z, w in ((x, u), (y, v)):
            weights = np.outer(w, w) * (1 - np.eye(len(z)))
            total += (weights * kid.kernel(z, z)).sum() / weights.sum()
        drawn.append(total - 2 * (np.outer(u, v) * kid.kernel(x, y)).sum() / 35)
    shift = kid.kid(x, y).value - np.mean(drawn)
    expected = (min(drawn) + shift, max(drawn) + shift, np.std(drawn, ddof=1))
    assert found == pytest.approx(expected, rel=1e-9)


def test_intervals_hold_the_figure_and_depend_on_the_seed_alone():
    x = np.random.default_rng(0).normal(size=(60, 5))
    y = x[:40] * 2
    reference = Moments.of(y)
    one, two, other = (bootstrap.frechet_interval(x, reference, seed=s) for s in (0, 0, 1))
    assert one == two != other
    assert one.low < frechet_distance(Moments.of(x), reference) < one.high
    a, b, c = (bootstrap.kid_interval(x, y, seed=s) for s in (0, 0, 1))
    assert a == b != c
    assert a.low < kid.kid(x, y).value < a.high


@pytest.mark.slow
@pytest.mark.parametrize(("d", "n"), [(4, 200), (16, 400)])
def test_intervals_hold_what_n_samples_give_on_average(d, n):
    rng = np.random.default_rng(1)
    reference = Moments(np.full(d, 0.3), np.eye(d) * 1.2, 0)
    draw = lambda: rng.normal(size=(n, d))  # noqa: E731
    many = [frechet_distance(Moments.of(draw()), reference) for _ in range(4000)]
    found = [bootstrap.frechet_interval(draw(), reference, repeats=200, seed=s) for s in range(400)]
    held = np.mean([i.low <= np.mean(many) <= i.high for i in found])
    assert 0.92 <= held <= 0.98  # 95 % of 400 cases, give or take 2.7 deviations
    assert np.mean([i.error for i in found]) == pytest.approx(np.std(many), rel=0.05)


@pytest.mark.slow
def test_intervals_and_jackknife_errors_of_kid_hold_the_truth():
    rng = np.random.default_rng(2)
    draw = lambda: (rng.normal(size=(150, 8)), rng.normal(size=(100, 8)) + 0.5)  # noqa: E731
    many = [kid.kid(*draw()) for _ in range(2000)]
    truth, deviation = np.mean([k.value for k in many]), np.std([k.value for k in many])
    assert np.mean([k.spread for k in many]) == pytest.approx(deviation, rel=0.05)
    held = np.mean([abs(k.value - truth) <= 1.96 * k.spread for k in many])
    assert 0.92 <= held <= 0.97
    found = [bootstrap.kid_interval(*draw(), seed=s) for s in range(400)]
    assert 0.92 <= np.mean([i.low <= truth <= i.high for i in found]) <= 0.98
    assert np.mean([i.error for i in found]) == pytest.approx(deviation, rel=0.05)
