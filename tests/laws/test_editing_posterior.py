"""What the editing loop samples, against the truth: on a correlated Gaussian the posterior under
every exact operator is known.

With the exact consistency function nothing in the loop is random but the noise, and everything is
linear, so means and covariances can be followed without drawing: the batch is a set of 2 d + 1
points, and its noise is made at a right angle to the estimates, with mean 0 and covariance 1
exactly. What the loop does to the points' mean and covariance it does to the distribution's.
"""

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from cmtool import registry
from cmtool.editors.base import run_edit
from cmtool.editors.superres import Superres
from cmtool.rng import SeedRng
from cmtool.sampling import trajectory_end
from cmtool.schedules.karras import Karras
from cmtool.solvers.heun import Heun

EXACT = [
    *(name for name in registry.names("editors") if registry.load("editors", name).group == "exact")
]
SHAPE, MEAN = (3, 4, 4), 0.1
EVALUATIONS = (18, 37, 74, 149, 299, 599)
PAGE = Path(__file__).parents[2] / "docs" / "editing.md"
# Largest error of the covariance after 149 and after 599 evaluations.
EACH = ["inpaint", *(pytest.param(n, marks=pytest.mark.slow) for n in EXACT if n != "inpaint")]
BOUNDS = {"inpaint": (0.15, 0.05), "superres": (0.15, 0.05), "compressed": (0.3, 0.12)}


def covariance():
    """Variance 1/4; the correlation falls as exp(-distance / 2), between colours it is 0.8."""
    c, h, w = SHAPE
    places = torch.cartesian_prod(torch.arange(h), torch.arange(w)).double()
    colours = torch.full((c, c), 0.8).double().fill_diagonal_(1.0)
    return torch.kron(colours, (-torch.cdist(places, places) / 2).exp()) / 4


COVARIANCE = covariance()
VALUES, VECTORS = torch.linalg.eigh(COVARIANCE)
POINTS = 2 * len(COVARIANCE) + 1


class ExactNoise:
    """Noise whose mean is 0, whose covariance is 1 and which is uncorrelated with the estimates,
    all of the points at hand rather than on average."""

    def __init__(self):
        self.seen = torch.randn(POINTS, len(COVARIANCE), dtype=torch.float64)

    def watch(self, level, x):
        self.seen = x.flatten(1)

    def randn(self, shape):
        known = torch.cat([torch.ones(POINTS, 1).double(), self.seen - self.seen.mean(0)], 1)
        basis, _ = torch.linalg.qr(known, mode="complete")
        return basis[:, -len(COVARIANCE) :].reshape(POINTS, *shape) * POINTS**0.5


def model(kind):
    """The Gaussian's exact consistency function or denoiser."""

    def answer(x, t):
        level = t[0] ** 2
        shrink = VALUES / (VALUES + level)
        if kind == "consistency":
            shrink = ((VALUES + Karras().t_min ** 2) / (VALUES + level)).sqrt()
        centred = x.flatten(1) - MEAN
        return (MEAN + (centred @ VECTORS * shrink) @ VECTORS.T).reshape(x.shape)

    return answer


@cache
def prepared(name):
    if name in ("mri", "compressed"):
        pytest.importorskip("deepinv", reason="its operators come from the extra 'inverse'")
    editor = Superres(2) if name == "superres" else registry.load("editors", name)()
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1:3, 1:3] = 1
    given = {"mask": mask} if editor.pictures else {}
    z = torch.randn(len(COVARIANCE), generator=torch.Generator().manual_seed(1)).double()
    clean = MEAN + VECTORS @ (VALUES.sqrt() * z)
    rng = SeedRng(0, [0] * POINTS)  # The same operator for all points.
    reference = editor.degrade(clean.reshape(1, *SHAPE).expand(POINTS, -1, -1, -1), rng, **given)
    return editor.prepare(reference, rng, **given)


def posterior(edit):
    """Mean and covariance of the Gaussian given the measurement."""
    n = len(COVARIANCE)
    a = edit.measure(torch.eye(POINTS, n).double().reshape(POINTS, *SHAPE))[:n].flatten(1).T
    inverse = torch.linalg.pinv(a @ COVARIANCE @ a.T, rtol=1e-9, hermitian=True)
    gain = COVARIANCE @ a.T @ inverse
    mean = MEAN + gain @ (edit.y[0].flatten() - a @ COVARIANCE.new_full((n,), MEAN))
    return mean, COVARIANCE - gain @ a @ COVARIANCE


@cache
def sampled(name, kind, evaluations):
    """`followed` with an exact model."""
    return followed(name, model(kind), evaluations)


def followed(name, denoise, evaluations):
    """Errors of the mean, in posterior standard deviations, and of the covariance, relative in the
    Frobenius norm; and the sum of the variances over the posterior's."""
    torch.manual_seed(0)
    edit, noise = prepared(name), ExactNoise()
    levels = Karras().grid(evaluations + 1)[:-1]
    x = run_edit(
        *(denoise, Karras(), edit, levels), rng=noise, clamped=False, watch=noise.watch
    ).flatten(1)
    mean, truth = posterior(edit)
    found = (x - x.mean(0)).T @ (x - x.mean(0)) / POINTS
    off = (x.mean(0) - mean).norm() / truth.trace().sqrt()
    error = (found - truth).norm() / truth.norm()
    return float(off), float(error), float(found.trace() / truth.trace())


@pytest.mark.parametrize("name", EACH)
def test_with_a_consistency_function_the_posterior_is_approached(name):
    off, errors, _ = zip(*(sampled(name, "consistency", n) for n in EVALUATIONS), strict=True)
    assert list(errors) == sorted(errors, reverse=True)
    assert list(off) == sorted(off, reverse=True)
    at_149, at_599 = BOUNDS.get(name, (0.15, 0.05))
    assert errors[3] < at_149
    assert errors[5] < at_599
    assert off[5] < 0.06
    # Four times the evaluations: a quarter of the error in the end.
    assert 3 < errors[3] / errors[5] < 4.5


@pytest.mark.parametrize("name", EACH)
def test_with_a_denoiser_the_mean_is_approached_and_half_the_covariance(name):
    early, late = (sampled(name, "denoiser", n) for n in (EVALUATIONS[2], EVALUATIONS[-1]))
    assert late[0] < min(0.04, early[0] / 2)
    assert late[1] == pytest.approx(0.5, abs=0.02)
    assert late[2] == pytest.approx(0.5, abs=0.01)
    assert abs(late[2] - 0.5) < abs(early[2] - 0.5)


@pytest.mark.parametrize("name", ["inpaint", pytest.param("colorize", marks=pytest.mark.slow)])
def test_a_teacher_that_runs_to_the_end_is_a_consistency_function(name):
    """The more of Heun's steps before each projection, the nearer."""
    _, exact, whole = sampled(name, "consistency", 74)
    errors, shares = [], []
    for steps in (1, 4, 16):
        end = trajectory_end(model("denoiser"), Karras(), (Heun(),) * steps)
        _, error, share = followed(name, end, 74)
        errors.append(error)
        shares.append(share)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(exact, rel=0.06)
    assert shares[-1] == pytest.approx(whole, rel=0.006)


def test_the_points_follow_a_distribution_exactly():
    """Two evaluations by hand, mean and covariance, for the mask."""
    edit, noise = prepared("inpaint"), ExactNoise()
    levels = torch.tensor([80.0, 1.0], dtype=torch.float64)
    x = run_edit(
        *(model("consistency"), Karras(), edit, levels), rng=noise, clamped=False, watch=noise.watch
    ).flatten(1)
    q = torch.diag((edit.measure(torch.ones_like(edit.shown))[0] == 0).flatten().double())
    low = Karras().t_min ** 2
    mean, spread = edit.shown[0].flatten(), 80.0**2 * torch.eye(len(COVARIANCE)).double()
    for level in (80.0, 1.0):
        f = VECTORS @ torch.diag(((VALUES + low) / (VALUES + level**2)).sqrt()) @ VECTORS.T
        f = q @ f
        if level == 1.0:
            spread = spread + (1 - low) * torch.eye(len(COVARIANCE))
        mean = q @ torch.full_like(mean, MEAN) + f @ (mean - MEAN)
        mean, spread = mean + edit.shown[0].flatten(), f @ spread @ f.T
    found = (x - x.mean(0)).T @ (x - x.mean(0)) / POINTS
    assert (x.mean(0) - mean).abs().max() <= 1e-9
    assert (found - spread).abs().max() <= 1e-9


@pytest.mark.slow
def test_the_table_in_the_docs_is_true():
    rows = dict(re.findall(r"^\| (\w+) \| ([\d. |]+?) \|$", PAGE.read_text(), re.MULTILINE))
    for name in EXACT:
        told = [float(cell) for cell in rows[name].split("|")]
        errors = [sampled(name, "consistency", n)[1] for n in EVALUATIONS]
        half = sampled(name, "denoiser", EVALUATIONS[-1])[2]
        assert told == pytest.approx([*errors, half], abs=0.0006)
