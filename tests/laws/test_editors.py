"""What every editor keeps: the exact projections, the loop around them, and the saved picture."""

from dataclasses import replace

import pytest
import torch

from cmtool import registry
from cmtool.editors.base import Edit, clamp, run_edit
from cmtool.editors.colorize import Colorize, luma, neutral
from cmtool.editors.inpaint import Inpaint
from cmtool.editors.superres import Superres, into_range
from cmtool.errors import DataError
from cmtool.images import from_uint8, to_uint8
from cmtool.rng import SeedRng
from cmtool.sampling import trajectory_end
from cmtool.schedules.karras import Karras
from cmtool.schedules.trigflow import TrigFlow
from cmtool.solvers.euler import Euler
from cmtool.solvers.heun import Heun
from tests.oracles import Gaussian

EDITORS = {name: registry.load("editors", name) for name in registry.names("editors")}
EXACT = [name for name, editor in EDITORS.items() if editor.group == "exact"]
OWN = ("inpaint", "colorize", "superres")  # Those that settle on the measurement to rounding.
LEVELS = Karras().grid(5)[:-1]
ORACLE = Gaussian(Karras())


def images(n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1


def pictures_for(editor):
    generator = torch.Generator().manual_seed(7)
    return {name: torch.rand(1, 1, 8, 8, generator=generator) for name in editor.pictures}


def edit_of(name, clean, numbers=(3, 5)):
    if name in ("mri", "compressed"):
        pytest.importorskip("deepinv", reason="its operators come from the extra 'inverse'")
    editor = EDITORS[name]()
    given, rng = pictures_for(editor), SeedRng(0, numbers)
    return editor.prepare(editor.degrade(clean, rng, **given), rng, **given)


def inner(a, b):
    return (a * b).sum()


def close(a, b, to):
    assert (a - b).abs().max() <= to


# Exact projections.


@pytest.mark.parametrize("name", EXACT)
def test_a_projection_agrees_with_the_measurement_and_stays_there(name):
    edit, x = edit_of(name, images()), 3 * torch.randn(2, 3, 8, 8, dtype=torch.float64)
    projected = edit.project(x)
    close(edit.measure(projected), edit.y, 1e-12)
    close(edit.project(projected), projected, 1e-12)
    assert edit.error(projected).max() <= 1e-12
    assert edit.error(x).min() > 0.1
    close(edit.measure(images()), edit.y, 1e-12)  # What was measured is the clean picture.


@pytest.mark.parametrize("name", EXACT)
def test_a_projection_is_orthogonal(name):
    edit = edit_of(name, images())
    x, w = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    origin = edit.project(torch.zeros_like(x))
    px, pw = edit.project(x) - origin, edit.project(w) - origin
    assert abs(inner(px, w) - inner(x, pw)) <= 1e-12 * px.norm() * w.norm()
    # x is left along A^T only: at a right angle to all that measures as 0.
    _, pull = torch.func.vjp(edit.measure, x)
    (back,) = pull(torch.randn_like(edit.y))
    assert inner(back, pw).abs() <= 1e-12 * back.norm() * pw.norm()
    close(edit.project(x + back), edit.project(x), 1e-12 * back.norm())


@pytest.mark.parametrize("name", EXACT)
def test_an_image_does_not_depend_on_its_neighbour(name):
    outs = []
    for clean, numbers in ((images(), (3, 5)), (images()[:1], (3,)), (images(2, 1), (9, 3))):
        clean = clean if numbers != (9, 3) else torch.stack([clean[0], images()[0]])
        edit, rng = edit_of(name, clean, numbers), SeedRng(0, numbers)
        x = run_edit(ORACLE.consistency, Karras(), edit, LEVELS, rng=rng)
        outs.append(edit.settle(x)[numbers.index(3)])
    close(outs[0], outs[1], 1e-12)
    close(outs[0], outs[2], 1e-12)


# The loop.


def test_the_loop_clamps_then_projects_and_tells_every_evaluation():
    edit, seen = edit_of("superres", 0.99 * torch.ones(2, 3, 8, 8, dtype=torch.float64)), []
    x = run_edit(
        *(lambda x, t: 5 * torch.ones_like(x), Karras(), edit, LEVELS),
        rng=SeedRng(0, (0, 1)),
        watch=lambda level, estimate: seen.append((level, estimate)),
    )
    close(x, torch.full_like(x, 0.99), 1e-12)
    assert [level for level, _ in seen] == LEVELS.tolist()
    for _, estimate in seen:
        assert edit.error(estimate).max() <= 1e-12
    raised = []
    run_edit(
        *(lambda x, t: 5 * torch.ones_like(x), Karras(), replace(edit, project=None), LEVELS),
        rng=SeedRng(0, (0, 1)),
        clamped=False,
        watch=lambda level, estimate: raised.append(estimate),
    )
    assert all((estimate == 5).all() for estimate in raised)


@pytest.mark.parametrize("schedule", [Karras(), TrigFlow()])
def test_a_start_of_its_own_is_followed_by_the_levels_below_it(schedule):
    clean, levels = images(), []
    noisy = clean + 0.7 * torch.randn_like(clean)
    edit = Edit(clean, start=noisy, sigma=torch.tensor([0.7, 0.7]))
    out = run_edit(
        *(Gaussian(schedule).consistency, schedule, edit),
        torch.tensor([80.0, 2.0, 0.7, 0.3], dtype=torch.float64),
        rng=SeedRng(0, (0, 1)),
        watch=lambda level, estimate: levels.append(level),
    )
    assert levels == pytest.approx([0.7, 0.3])
    first = run_edit(
        *(Gaussian(schedule).consistency, schedule, edit),
        torch.tensor([80.0], dtype=torch.float64),
        rng=SeedRng(0, (0, 1)),
        clamped=False,
    )
    level = torch.tensor([0.7, 0.7], dtype=torch.float64)
    close(first, ORACLE.consistency(noisy, level), 1e-5)
    assert (out - first).abs().max() > 0.1


@pytest.mark.parametrize("schedule", [Karras(), TrigFlow()])
def test_a_start_without_noise_comes_back(schedule):
    for how in ({"sigma": torch.full((2,), schedule.noise_range[0])}, {"strength": 0.0}):
        edit = Edit(images(), start=images(), **how)
        x = run_edit(
            *(Gaussian(schedule).consistency, schedule, edit, LEVELS), rng=SeedRng(0, (0, 1))
        )
        close(x, images(), 1e-9)


def test_a_mask_without_holes_gives_the_input_and_one_of_holes_a_sample():
    clean = images()
    for white in (0.0, 1.0):
        mask = torch.full((1, 1, 8, 8), white)
        edit = Inpaint().prepare(clean, SeedRng(0, (0, 1)), mask=mask)
        out = run_edit(ORACLE.consistency, Karras(), edit, LEVELS, rng=SeedRng(0, (0, 1)))
        plain = run_edit(
            *(ORACLE.consistency, Karras(), Edit(torch.zeros_like(clean)), LEVELS),
            rng=SeedRng(0, (0, 1)),
        )
        assert torch.equal(out, plain if white else clean)


def test_a_teacher_runs_to_the_end_of_its_trajectory():
    asked = []

    def denoise(x, t):
        asked.append(float(t[0]))
        return ORACLE.denoise(x, t)

    x, t = 2.0 * images(), torch.full((2,), 2.0, dtype=torch.float64)
    for solvers, evaluations in (((), 1), ((Heun(),) * 4 + (Euler(),), 10), ((Heun(),) * 60, 121)):
        asked.clear()
        end = trajectory_end(denoise, Karras(), solvers)(x, t)
        assert len(asked) == evaluations
    assert asked[-1] == pytest.approx(0.002)
    close(end, ORACLE.consistency(x, t), 1e-3)
    assert torch.equal(trajectory_end(denoise, Karras(), ())(x, t), ORACLE.denoise(x, t))


# Saving.


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("wildness", [0.0, 0.5, 3.0])
def test_settling_stays_in_range_and_with_the_measurement(name, wildness):
    edit = edit_of(name, images())
    x = edit.project(images() + wildness * torch.randn(2, 3, 8, 8, dtype=torch.float64))
    before, settled = x.clone(), edit.settle(x)
    assert torch.equal(x, before)
    assert settled.abs().max() <= 1
    if name in OWN:
        close(edit.measure(settled), edit.y, 1e-6)
    if wildness == 0:
        close(settled, images(), 1e-9)


def test_block_means_in_range_are_the_nearest_block():
    blocks = 2 * torch.randn(50, 16, dtype=torch.float64)
    mean = torch.rand(50, dtype=torch.float64) * 2 - 1
    near = into_range(blocks, mean)
    close(near.mean(1), mean, 1e-12)
    # Moving a little along any direction that keeps mean and range goes away from the block.
    for _ in range(20):
        other = into_range(near + 0.1 * torch.randn_like(near), mean)
        slope = ((near - blocks) * (other - near)).sum(1)
        assert slope.min() >= -1e-9


def test_settled_chroma_is_scaled_about_the_grey():
    edit = edit_of("colorize", images())
    x = edit.project(2 * torch.randn(2, 3, 8, 8, dtype=torch.float64))
    grey, settled = edit.shown, edit.settle(x)
    close(luma(grey), edit.y, 1e-12)
    close(torch.linalg.cross(x - grey, settled - grey, dim=1), torch.zeros_like(x), 1e-9)
    assert ((x - grey) * (settled - grey) >= 0).all()
    outside = x.abs().amax(1) > 1
    close(settled.abs().amax(1)[outside], torch.ones(()), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [(0, 256), (0, 2), (254, 256)])
@pytest.mark.parametrize("name", OWN)
def test_eight_bits_keep_the_measurement_to_a_level(name, values, dtype):
    editor, generator = EDITORS[name](), torch.Generator().manual_seed(2)
    size = 2 if name == "superres" else 8
    shape = (2, 3, size, size)
    bytes_in = torch.randint(*values, shape, generator=generator, dtype=torch.uint8)
    given = pictures_for(editor)
    edit = editor.prepare(from_uint8(bytes_in).to(dtype), SeedRng(0, (0, 1)), **given)
    x = edit.project(2 * torch.randn(edit.shown.shape, dtype=dtype))
    saved = to_uint8(edit.settle(x)).double()
    if name == "inpaint":
        known = (given["mask"] < 0.5).expand_as(saved)
        assert torch.equal(saved[known], bytes_in.double()[known])
    elif name == "colorize":
        close(luma(saved), luma(bytes_in.double()), 0.501)
    else:
        close(edit.measure(saved), bytes_in.double(), 0.501)


# Each editor.


def test_a_grey_picture_is_its_own_luma():
    grey = images()[:, :1].expand(-1, 3, -1, -1)
    close(neutral(luma(grey)), grey, 1e-12)
    close(Colorize().degrade(images(), SeedRng(0, (0, 1))), neutral(luma(images())), 0)


def test_superres_takes_any_factor_and_degrades_by_it():
    rng = SeedRng(0, (0, 1))
    for factor in (2, 4, 8):
        small = Superres(factor).degrade(images(), rng)
        assert small.shape == (2, 3, 8 // factor, 8 // factor)
        close(small[0, 0, 0, 0], images()[0, 0, :factor, :factor].mean(), 1e-12)
        assert Superres(factor).prepare(small, rng).shown.shape == (2, 3, 8, 8)
    with pytest.raises(DataError, match=r"'3' does not divide the picture's size 8x8"):
        Superres(3).degrade(images(), rng)
    with pytest.raises(ValueError, match="factor >= 2"):
        Superres(1)


def test_every_editor_says_what_the_command_line_needs():
    for editor in EDITORS.values():
        assert editor.group in ("exact", "iterative", "free")
        assert editor.sizes in ("resize", "tile", "model")
        assert editor.steps >= 1
        assert set(editor.pictures.values()) <= {"aligned", "own"}


def test_an_edit_that_measures_nothing_has_no_error():
    assert Edit(images()).error(images()) is None
    close(Edit(images()).settle(3 * images()), clamp(3 * images()), 0)
