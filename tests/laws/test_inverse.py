"""Deblur, mri, ct, compressed and any physics of deepinv: the operators against their definitions,
the solver against dense linear algebra."""

import builtins
import math
import re
from pathlib import Path

import pytest
import torch

import cmtool
from cmtool import registry
from cmtool.editors import _physics
from cmtool.editors.base import run_edit
from cmtool.editors.compressed import Compressed
from cmtool.editors.ct import Ct
from cmtool.editors.deblur import Deblur, motion
from cmtool.editors.mri import Mri
from cmtool.errors import CmtoolError, DataError
from cmtool.images import from_uint8, to_uint8
from cmtool.rng import SeedRng
from cmtool.schedules.karras import Karras
from tests.oracles import Gaussian, model

physics = pytest.importorskip("deepinv.physics", reason="needs the extra 'inverse'")

SHAPES = [(1, 8, 8), (3, 5, 4), (1, 1, 1)]
CASES = [
    *(Deblur("gaussian:0.8", noise=0.001), Deblur("motion:3,30"), Ct(3), Ct(9)),
    *(Mri(), Mri(2, 0.3), Compressed(), Compressed(0.6)),
]
ITERATIVE = [case for case in CASES if case.group == "iterative"]


def name_of(case):
    return repr(case) if not isinstance(case, tuple) else "x".join(map(str, case))


def images(shape=(1, 8, 8), n=2, seed=0):
    """Smooth, as pictures are: half of what is drawn for a pixel is its neighbours' too."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, *shape, generator=generator, dtype=torch.float64) * 1.4 - 0.4
    return (x + x.mean((2, 3), keepdim=True)) / 2


def edit_of(case, clean, numbers=(3, 5)):
    rng = SeedRng(0, numbers[: len(clean)])
    return case.prepare(case.degrade(clean, rng), rng)


def dense(edit):
    """A of image 0, (measurements, pixels); columns are what unit images measure as."""
    shape = edit.shown.shape
    columns = [
        edit.measure(unit.reshape(1, *shape[1:]).expand(shape))[0].flatten()
        for unit in torch.eye(edit.shown[0].numel(), dtype=torch.float64)
    ]
    return torch.stack(columns, 1)


def regularised(a, x, y, d):
    """x + A^T (A A^T + d^2 I)^-1 (y - A x), d = 0 by the pseudo-inverse."""
    if d == 0:
        return x + torch.linalg.pinv(a, rtol=1e-9) @ (y - a @ x)
    square = a @ a.T + d**2 * torch.eye(len(a), dtype=a.dtype)
    return x + a.T @ torch.linalg.solve(square, y - a @ x)


# Operators.


@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_what_is_projected_lies_along_the_adjoint(case, shape):
    """x is moved along A^T only, by an A^T that is the transpose of A."""
    edit = edit_of(case, images(shape))
    x = images(shape, seed=1)
    matrix = dense(edit)
    moved = (edit.project(x) - x)[0].flatten()
    along = torch.linalg.pinv(matrix, rtol=1e-9) @ (matrix @ moved)
    assert (along - moved).abs().max() <= 1e-9 * (1 + moved.abs().max())
    if case.group == "exact":
        assert (edit.shown[0].flatten() - matrix.T @ edit.y[0].flatten()).abs().max() <= 1e-12


@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_projection_agrees_with_the_measurement(case, shape):
    edit = edit_of(case, images(shape))
    projected = edit.project(images(shape, seed=1))
    assert edit.error(projected).max() <= max(edit.tol, 1e-12)
    assert (edit.project(projected) - projected).abs().max() <= (1e-12 if edit.tol == 0 else 0)


@pytest.mark.parametrize("views", [3, 9])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4)], ids=name_of)
def test_tomography_is_the_dense_least_squares_solution(views, shape):
    edit, x = edit_of(Ct(views, tol=1e-12), images(shape)), images(shape, seed=1)
    truth = regularised(dense(edit), x[0].flatten(), edit.y[0].flatten(), 0)
    assert (edit.project(x)[0].flatten() - truth).abs().max() <= 1e-8


@pytest.mark.parametrize("kernel", ["gaussian:1.5", "motion:5,20"])
@pytest.mark.parametrize("noise", [0.3, 0.02])
def test_deblurring_is_the_dense_regularised_solution(kernel, noise):
    # No blurred picture is this one: the tolerance is out of reach, and the equation is solved.
    case, x = Deblur(kernel, noise=noise, tol=1e-15), images(seed=1)
    edit = case.prepare(torch.randn(2, 1, 8, 8, dtype=torch.float64), SeedRng(0, (0, 1)))
    truth = regularised(dense(edit), x[0].flatten(), edit.y[0].flatten(), noise)
    assert (edit.project(x)[0].flatten() - truth).abs().max() <= 1e-8 * truth.abs().max()


@pytest.mark.parametrize("case", [*ITERATIVE, *CASES[4::2]], ids=name_of)
def test_an_image_is_the_same_alone_and_beside_another(case):
    clean, outs = images(), []
    oracle, levels = Gaussian(Karras()), Karras().grid(3)[:-1]
    harder = torch.randn(1, 1, 8, 8, dtype=torch.float64).sign()
    for batch, numbers in ((clean[:1], (3,)), (torch.cat([harder, clean[:1]]), (5, 3))):
        edit = edit_of(case, batch, numbers)
        x = run_edit(oracle.consistency, Karras(), edit, levels, rng=SeedRng(0, numbers))
        outs.append(edit.settle(x)[-1])
    assert (outs[0] - outs[1]).abs().max() <= 1e-9


@pytest.mark.parametrize("case", CASES[4:], ids=name_of)
def test_an_operator_is_drawn_from_the_seed_for_each_image(case):
    clean = images()[:1].expand(2, -1, -1, -1)
    first, again = (edit_of(case, clean).y for _ in range(2))
    assert torch.equal(first, again)
    assert (first[0] - first[1]).abs().max() > 0.01
    assert torch.equal(edit_of(case, clean, (5, 3)).y.flip(0), first)


# Each operator by its definition.


def test_gaussian_kernels():
    for sigma in (0.4, 1.0, 2.5):
        point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
        point[..., 20, 20] = 1
        kernel = Deblur(f"gaussian:{sigma}").degrade(point, SeedRng(0, (0,)))[0, 0]
        at = torch.arange(-20, 21, dtype=torch.float64)
        bell = (-(at**2) / (2 * sigma**2)).exp() * (at.abs() <= int(sigma / 0.3 + 1))
        truth = bell[:, None] * bell[None] / bell.sum() ** 2
        assert kernel.sum() == pytest.approx(1, abs=1e-12)
        assert (kernel - truth).abs().max() <= 1e-12


def test_motion_kernels():
    """The share of a straight path in each pixel: by a formula, and by walking along it."""
    assert (motion(9, 0)[0, 0, 4] - 1 / 9).abs().max() <= 1e-12
    assert (
        motion(4, 90)[0, 0, :, 2] - torch.tensor([0.125, 0.25, 0.25, 0.25, 0.125])
    ).norm() < 1e-7
    assert motion(1, 77).shape == (1, 1, 1, 1)
    for length, angle in ((7.5, 30), (5, -20), (12, 135), (3, 359)):
        kernel = motion(length, angle)[0, 0]
        assert kernel.sum() == pytest.approx(1, abs=1e-12)
        assert (kernel - kernel.flip(0, 1)).abs().max() <= 1e-12
        t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 - 0.5
        middle, turn = len(kernel) // 2, math.radians(angle)
        column = (t * length * math.cos(turn)).round().long() + middle
        row = middle - (t * length * math.sin(turn)).round().long()
        walked = torch.zeros_like(kernel).index_put_(
            (row, column), torch.full_like(t, 1 / len(t)), accumulate=True
        )
        assert (kernel - walked).abs().max() <= 1e-4
    assert motion(9, 30)[0, 0, 2, 8] > 0.05  # Up on the right.
    assert motion(9, 30)[0, 0, 6, 8] == 0


@pytest.mark.parametrize("size", [(1, 3), (3, 1), (2, 4), (5, 5), (11, 9)], ids=name_of)
def test_a_picture_of_a_kernel_blurs_by_it(size):
    """Convolution, the border pixel going on for ever, at any size of both."""
    generator = torch.Generator().manual_seed(4)
    kernel = torch.rand(1, 1, *size, generator=generator, dtype=torch.float64)
    clean, case = images((1, 6, 7)), Deblur("k.png", noise=0.001)
    blurred = case.degrade(clean, SeedRng(0, (0, 1)), kernel=kernel)
    top, left = size[0] // 2, size[1] // 2  # The middle; of an even size the pixel after it.
    truth = torch.zeros_like(clean)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = (torch.arange(6) - (i - top)).clamp(0, 5)
            columns = (torch.arange(7) - (j - left)).clamp(0, 6)
            truth += kernel[0, 0, i, j] / kernel.sum() * clean[:, :, rows][..., columns]
    assert (blurred - truth).abs().max() <= 1e-12
    edit = case.prepare(blurred, SeedRng(0, (0, 1)), kernel=kernel)
    assert edit.error(edit.project(torch.zeros_like(clean))).max() <= 0.01


@pytest.mark.parametrize("height", [1, 2, 7, 8, 28, 32])
@pytest.mark.parametrize(
    ("acceleration", "centre"), [(4.0, 0.08), (2.0, 0.5), (1.0, 0.0), (8.0, 0)]
)
def test_measured_rows(height, acceleration, centre):
    chosen = Mri(acceleration, centre).rows(height, SeedRng(0, range(20)))
    k = torch.arange(height) - height // 2
    assert torch.equal(chosen, chosen[:, (height // 2 - k) % height])  # k with -k.
    assert chosen[:, k == 0].all()
    assert chosen[:, 2 * k.abs() < centre * height].all()
    wanted = max(height / acceleration, int((2 * k.abs() < centre * height).sum()))
    assert chosen.sum(1).min() >= wanted
    assert chosen.sum(1).max() <= wanted + 2
    if height >= 28 and acceleration > 1:
        assert len(chosen.unique(dim=0)) > 5


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 9)], ids=name_of)
def test_mri_measures_the_fourier_transform(shape):
    clean, case = images(shape), Mri()
    edit = edit_of(case, clean)
    rows = case.rows(shape[1], SeedRng(0, (3, 5)))
    origin = clean.roll((-(shape[1] // 2), -(shape[2] // 2)), (2, 3))
    k = torch.fft.fft2(origin, norm="ortho").roll((shape[1] // 2, shape[2] // 2), (2, 3))
    k = torch.where(rows[:, None, :, None], k, 0)
    assert (torch.complex(edit.y[:, :, 0], edit.y[:, :, 1]) - k).abs().max() <= 1e-12


def test_compressed_rows_are_orthonormal():
    for shape, ratio, kept in (((1, 8, 8), 0.25, 16), ((1, 7, 5), 0.4, 14), ((1, 1, 1), 0.1, 1)):
        a = dense(edit_of(Compressed(ratio), images(shape)))
        assert a.shape == (kept, shape[1] * shape[2])
        assert (a @ a.T - torch.eye(kept, dtype=a.dtype)).abs().max() <= 1e-12


def test_ct_measures_sums_along_rays():
    """Straight down and straight across, where rays meet pixels without a remainder."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[0, 0, 2:5, 3:8] = torch.rand(3, 5, dtype=torch.float64)
    y = edit_of(Ct(2), x).y[0, 0]
    down, across = x[0, 0].sum(0), x[0, 0].sum(1)
    spare = (len(y) - 9 + 1) // 2
    assert (y[spare:][:9, 0] - down).abs().max() <= 1e-12
    assert (y[spare:][:9, 1] - across.flip(0)).abs().max() <= 1e-12


# The solver.


def test_conjugate_gradients_stop_image_by_image():
    a = torch.randn(3, 12, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a[1] = torch.eye(12, 30)
    r = torch.randn(3, 12, dtype=torch.float64)
    r[2] = 0
    calls = 0

    def normal(w):
        nonlocal calls
        calls += 1
        return torch.einsum("bij,bkj,bk->bi", a, a, w)

    limit = torch.tensor([1e-9, 1e-9, 0], dtype=torch.float64)
    w, missed, converged = _physics.conjugate_gradients(normal, r, limit)
    assert converged.all()
    assert missed.max() <= 1e-9
    assert (normal(w) - r).norm(dim=1).max() <= 1e-8
    assert torch.equal(w[2], torch.zeros(12, dtype=torch.float64))
    assert (w[1] - r[1]).abs().max() <= 1e-12
    assert calls <= 25
    early = _physics.conjugate_gradients(normal, r, limit, iterations=3)
    assert early.converged.tolist() == [False, True, True]
    assert (normal(early.w) - r).norm(dim=1)[0] == pytest.approx(float(early.missed[0]))
    for d in (0.1, 3.0):
        damped = _physics.conjugate_gradients(normal, r, 0 * limit, damping=d)
        square = a @ a.mT + d**2 * torch.eye(12, dtype=a.dtype)
        assert (damped.w - torch.linalg.solve(square, r)).abs().max() <= 1e-10
        assert damped.converged.tolist() == [False, False, True]


@pytest.mark.parametrize("case", [Deblur("gaussian:1"), Ct(4), Mri(), Compressed()], ids=name_of)
def test_what_is_saved_is_in_range_and_near_the_measurement(case):
    clean = images((3, 8, 8)).clamp(-1, 1)
    edit = edit_of(case, clean)
    wild = edit.project(clean + 0.5 * torch.randn(2, 3, 8, 8, dtype=torch.float64))
    settled = edit.settle(wild)
    assert settled.abs().max() <= 1
    clamped = edit.error(wild.clamp(-1, 1))
    assert (edit.error(settled) <= torch.minimum(clamped, torch.tensor(0.02))).all()
    saved = from_uint8(to_uint8(settled)).double()
    assert edit.error(saved).max() <= 0.03


def test_saving_does_not_ask_for_more_than_pixels_tell(monkeypatch):
    asked = []
    monkeypatch.setattr(_physics, "alternate", lambda *given: asked.append(given[-1]))
    y = images()
    for tol in (1e-6, 0.01):
        _physics.iterative_edit(lambda x: x, lambda x: x, y, y, tol=tol).settle(y)
    _physics.exact_edit(lambda x: x, lambda x: x, y).settle(y)
    assert asked == [0.001, 0.01, 0.001]


def test_a_grey_picture_measures_as_nothing_and_comes_back():
    grey = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    for case in CASES:
        edit = edit_of(case, grey)
        assert edit.project(grey).abs().max() == 0
        assert edit.project(images()).isfinite().all()


# Any physics of deepinv.


def downsampling(dtype=torch.float64):
    kernel = physics.functional.gaussian_blur(sigma=(1.0, 1.0), dtype=dtype)
    return physics.Downsampling(filter=kernel, factor=2, img_size=(3, 8, 8))


def test_any_linear_physics_is_an_edit():
    clean = images((3, 8, 8))
    operator = downsampling()
    y = operator.A(clean)
    edit = cmtool.from_physics(operator, y, (3, 8, 8), tol=1e-8)
    x = images((3, 8, 8), seed=1)
    assert edit.error(edit.project(x)).max() <= 1e-8
    truth = regularised(dense(edit), x[0].flatten(), y[0].flatten(), 0)
    assert (edit.project(x)[0].flatten() - truth).abs().max() <= 1e-6
    # What is shown is A^T y at the scale that fits best.
    fits = [float(edit.error(s * edit.shown).max()) for s in (0.9, 1.0, 1.1)]
    assert fits[1] == min(fits)
    oracle, levels = Gaussian(Karras()), Karras().grid(5)[:-1]
    out = run_edit(oracle.consistency, Karras(), edit, levels, rng=SeedRng(0, (0, 1)))
    assert edit.error(out).max() <= 1e-8


def test_a_physics_computes_in_its_own_dtype():
    operator = downsampling(torch.float32)
    y = operator.A(images((3, 8, 8)).float())
    edit = cmtool.from_physics(operator, y, (3, 8, 8), tol=1e-4)
    projected = edit.project(images((3, 8, 8), seed=1))
    assert projected.dtype == torch.float64
    assert edit.error(projected).max() <= 1.1e-4


def test_an_adjoint_that_is_none_is_refused():
    angles = torch.arange(6) * 30.0
    settings = {"img_width": 8, "normalize": False}
    good = physics.Tomography(angles, adjoint_via_backprop=True, **settings)
    y = good.A(images().float())
    cmtool.from_physics(good, y, (1, 8, 8))
    bad = physics.Tomography(angles, adjoint_via_backprop=False, **settings)
    with pytest.raises(DataError, match="not the adjoint") as caught:
        cmtool.from_physics(bad, y, (1, 8, 8))
    assert "adjoint_via_backprop=True" in str(caught.value.hint)
    # The trap that `deblur` goes around: a kernel of one row.
    thin = physics.Blur(torch.ones(1, 1, 1, 3).double() / 3, padding="replicate")
    with pytest.raises(DataError, match="not the adjoint"):
        cmtool.from_physics(thin, images(), (1, 8, 8))


def test_what_is_not_linear_or_of_another_size_is_refused():
    class Bent:
        def A(self, x):
            return x.abs()

        def A_adjoint(self, y):
            return y

    with pytest.raises(DataError, match="not linear"):
        cmtool.from_physics(Bent(), images(), (1, 8, 8))
    operator = downsampling()
    y = operator.A(images((3, 8, 8)))
    with pytest.raises(DataError, match="and the measurement is"):
        cmtool.from_physics(operator, y[:, :, :2], (3, 8, 8))


# Mistakes.


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Deblur("gaussian:x"), "gaussian:SIGMA"),
        (lambda: Deblur("gaussian:0"), "SIGMA > 0"),
        (lambda: Deblur("gaussian:inf"), "SIGMA > 0"),
        (lambda: Deblur("motion:9"), "motion:LENGTH,ANGLE"),
        (lambda: Deblur("motion:0.5,3"), "LENGTH >= 1"),
        (lambda: Deblur(tol=0), "tol > 0"),
        (lambda: Deblur(noise=-1), "noise >= 0"),
        (lambda: Mri(0.5), "acceleration >= 1"),
        (lambda: Mri(centre=2), r"centre in \[0, 1\]"),
        (lambda: Ct(0), "views >= 1"),
        (lambda: Ct(tol=-1), "tol > 0"),
        (lambda: Compressed(0), r"ratio in \(0, 1\]"),
        (lambda: Compressed(math.nan), r"ratio in \(0, 1\]"),
    ],
)
def test_options_out_of_range(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_a_kernel_that_is_none():
    rng = SeedRng(0, (0, 1))
    with pytest.raises(DataError, match=r"'k.png' is neither") as caught:
        Deblur("k.png").prepare(images(), rng)
    assert "motion:LENGTH,ANGLE" in str(caught.value.hint)
    with pytest.raises(DataError, match="all black"):
        Deblur("k.png").prepare(images(), rng, kernel=torch.zeros(1, 1, 3, 3))


@pytest.mark.parametrize("name", ["deblur", "mri", "ct", "compressed"])
def test_without_deepinv_there_is_one_line(name, monkeypatch):
    true_import = builtins.__import__

    def without(module, *args, **kwargs):
        if module.startswith("deepinv"):
            raise ModuleNotFoundError("No module named 'deepinv'")
        return true_import(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    editor = registry.load("editors", name)()
    with pytest.raises(CmtoolError, match="deepinv") as caught:
        editor.prepare(images(), SeedRng(0, (0, 1)))
    assert "pip install 'cmtool[inverse]'" in str(caught.value.hint)


def test_the_example_in_the_docs_runs(monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "inverse.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    # The page's model has classes, the oracle has none.
    example = example.replace(", label=3", "").replace("torch.full((len(y),), 3)", "None")
    oracle = model(Gaussian(Karras()).consistency, Karras(), "consistency", (1, 8, 8))
    monkeypatch.setattr(cmtool, "load", lambda path, device: oracle, raising=False)
    space = {"clean": images().float()}
    exec(example, space)
    assert space["picture"].shape == (2, 1, 8, 8)
    assert space["edit"].error(space["x"]).max() <= 1.1e-3
    assert "tensor" in capsys.readouterr().out
