"""The measures against clean-fid and torch-fidelity on the same features, and where those fail."""

import inspect
import warnings

import numpy as np
import pytest
import torch

from cmtool.metrics.frechet import Moments, Running, frechet_distance
from cmtool.metrics.inception_score import probabilities, score_of_splits
from cmtool.metrics.kid import kid, kid_of_subsets
from cmtool.metrics.prdc import prdc

TOLERANCE = 1e-6
"""Of tr S1 + tr S2 + |m1 - m2|^2."""


def moments(features):
    running = Running()
    running.add(features)
    return running.moments()


def scale(a, b):
    return a.variance + b.variance + np.square(a.mean - b.mean).sum()


def clean_fid(x, y):
    """What clean-fid gives with a SciPy whose `sqrtm` still has `disp`; 1.18 dropped it."""
    fid = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed")
    root = fid.linalg.sqrtm
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's, about singular matrices
        patch.setattr(fid.linalg, "sqrtm", lambda a, disp=True: root(a) if disp else (root(a), 0.0))
        return fid.fid_from_feats(x, y)


def fidelity(name):
    reason = "torch-fidelity is not installed"
    return pytest.importorskip(f"torch_fidelity.metric_{name}", reason=reason)


def torch_fidelity(x, y):
    fid = fidelity("fid")
    found = [fid.fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)]
    return fid.fid_statistics_to_metric(*found, False)["frechet_inception_distance"]


def _sets():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 32)), 1.5 * rng.normal(size=(400, 32)) + 1
    few, low = rng.normal(size=(50, 128)), rng.normal(size=(300, 4)) @ rng.normal(size=(4, 64))
    steep = 10.0 ** -np.linspace(0, 8, 32)
    return {
        "plain": (x, y),
        "float32, above nought": (np.square(x).astype(np.float32), np.abs(y).astype(np.float32)),
        "ill-conditioned": (x * steep, (y - 1) * steep @ np.diag(np.linspace(0.5, 2, 32))),
        "the same": (x, x),
        "fewer than dimensions": (few, rng.normal(size=(60, 128))),
        "fewer than dimensions, the same": (few, few),
        "two": (few[:2], few[2:4]),
        "low rank, the same": (low, low),
        "dead dimensions": (x * (np.arange(32) < 20), y * (np.arange(32) < 20)),
        "no spread": (np.ones((4, 8)), rng.normal(size=(9, 8))),
    }


@pytest.mark.parametrize("tool", [clean_fid, torch_fidelity])
@pytest.mark.parametrize("name", _sets())
def test_the_distance_where_the_tools_are_right(name, tool):
    x, y = _sets()[name]
    a, b = moments(x), moments(y)
    assert abs(frechet_distance(a, b) - tool(x, y)) <= TOLERANCE * scale(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("tool", [clean_fid, torch_fidelity])
@pytest.mark.parametrize("n", [10_000, 50_000])
def test_the_distance_in_2048_dimensions(n, tool):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(2048, 2048)).astype(np.float32) / 40
    x, y = (
        np.maximum(rng.standard_normal((n, 2048), np.float32) @ weights * s + 0.3, 0)
        for s in (np.linspace(0.05, 0.6, 2048, dtype=np.float32), np.float32(0.4))
    )
    a, b = moments(x), moments(y)
    assert abs(frechet_distance(a, b) - tool(x, y)) <= TOLERANCE * scale(a, b)


# Where the tools fail.


def _large_and_singular():
    """Features y = x + 1, half as many as dimensions, so that the distance is d."""
    x = 1e3 * np.random.default_rng(0).normal(size=(64, 128))
    return x, x + 1, 128.0


def test_clean_fid_gives_up_or_errs_where_covariances_are_singular_and_large():
    x, y, truth = _large_and_singular()
    a, b = moments(x), moments(y)
    assert abs(frechet_distance(a, b) - truth) <= 1e-9 * scale(a, b)
    try:
        found = clean_fid(x, y)
    except ValueError as error:
        assert "Imaginary component" in str(error)  # noqa: PT017
        return
    assert not abs(found - truth) <= 1e-9 * scale(a, b)


def test_torch_fidelity_loses_digits_where_covariances_are_singular():
    x, y, truth = _large_and_singular()
    ours = frechet_distance(moments(x), moments(y))
    assert abs(ours - truth) <= 0.1 * abs(torch_fidelity(x, y) - truth)


def test_a_scipy_whose_sqrtm_has_no_disp_does_not_matter(monkeypatch):
    fid = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed")
    linalg = pytest.importorskip("scipy.linalg", reason="SciPy is not installed")
    before = linalg.sqrtm

    def sqrtm(A):  # as SciPy 1.18 has it
        return before(A)

    monkeypatch.setattr(linalg, "sqrtm", sqrtm)
    x, y = _sets()["plain"]
    a, b = moments(x), moments(y)
    with pytest.raises(TypeError, match="disp"):
        fid.fid_from_feats(x, y)
    root = sqrtm(a.covariance @ b.covariance).real
    truth = scale(a, b) - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-9)


def test_nothing_of_ours_calls_scipy():
    from cmtool.metrics import bootstrap, frechet, inception_score
    from cmtool.metrics import kid as kernel
    from cmtool.metrics import prdc as neighbours

    for module in (bootstrap, frechet, inception_score, kernel, neighbours):
        assert "scipy" not in inspect.getsource(module)


# KID, Inception score, precision and recall.


@pytest.mark.parametrize("seed", [2020, 7])
def test_kid_of_subsets_is_torch_fidelitys(seed):
    rng = np.random.default_rng(1)
    x, y = np.abs(rng.normal(size=(500, 48))), np.abs(rng.normal(size=(400, 48))) * 1.1
    options = {"kid_subsets": 20, "kid_subset_size": 100, "rng_seed": seed, "verbose": False}
    tool = fidelity("kid").kid_features_to_metric(*map(torch.from_numpy, (x, y)), **options)
    expected = tuple(tool[f"kernel_inception_distance_{what}"] for what in ("mean", "std"))
    assert kid_of_subsets(x, y, subsets=20, size=100, seed=seed) == pytest.approx(
        expected, rel=1e-9
    )


def test_the_mean_over_many_subsets_goes_to_the_full_kid():
    rng = np.random.default_rng(2)
    x, y = np.abs(rng.normal(size=(300, 16))), np.abs(rng.normal(size=(300, 16))) * 1.1
    many = kid_of_subsets(x, y, subsets=2000, size=100)
    assert kid(x, y).value == pytest.approx(many.value, abs=4 * many.spread / 2000**0.5)


def test_kid_of_clean_fid_is_of_the_same_kernel():
    fid = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed")
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 16)), rng.normal(size=(60, 16)) + 0.3
    # A subset of all is the same whatever is drawn.
    tool = fid.kernel_distance(x, y, num_subsets=1, max_subset_size=60)
    assert kid(x, y).value == pytest.approx(tool, rel=1e-9)


@pytest.mark.parametrize("n", [1000, 1003])
def test_inception_score_of_splits_is_torch_fidelitys(n):
    logits = 3 * np.random.default_rng(4).normal(size=(n, 40))
    tool = fidelity("isc").isc_features_to_metric(torch.from_numpy(logits))
    expected = tool["inception_score_mean"], tool["inception_score_std"]
    assert score_of_splits(probabilities(logits)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize(("n", "m", "k"), [(400, 400, 3), (150, 600, 3), (400, 300, 5)])
def test_precision_and_recall_are_torch_fidelitys(n, m, k, low_memory):
    rng = np.random.default_rng(5)
    reference, samples = rng.normal(size=(n, 8)), 0.8 * rng.normal(size=(m, 8)) + 0.5
    tool = fidelity("prc").prc_features_to_metric(
        *map(torch.from_numpy, (samples, reference)),
        **{"prc_neighborhood": k, "prc_batch_size": 100, "save_cpu_ram": low_memory},
        verbose=False,
    )
    found = prdc(reference, samples, k)
    assert (found.precision, found.recall) == pytest.approx(
        (tool["precision"], tool["recall"]), abs=1e-6
    )
    assert 0.1 < found.recall < found.precision < 1


def test_moments_are_numpys():
    x = np.random.default_rng(6).normal(3, 2, (5000, 20)).astype(np.float32)
    found = moments(x)
    assert isinstance(found, Moments)
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-9)
