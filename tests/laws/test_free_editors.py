"""What editors without a measurement keep: stroke, denoise, the way between two pictures."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from cmtool.editors.base import edit_path, run_edit, strength_level
from cmtool.editors.denoise import Denoise, estimate_noise, noise_level
from cmtool.editors.stroke import Stroke
from cmtool.errors import DataError
from cmtool.interpolation import (
    add_noise,
    interpolate,
    noise_by_ode,
    noise_by_search,
    slerp,
)
from cmtool.rng import SeedRng
from cmtool.sampling import sample_consistency, start_noise, trajectory_end
from cmtool.schedules.karras import Karras
from cmtool.schedules.trigflow import TrigFlow
from cmtool.solvers.euler import Euler
from cmtool.solvers.heun import Heun
from tests.oracles import Gaussian

KARRAS = Karras()
LEVELS = KARRAS.grid(9)[:-1]
ORACLE = Gaussian(KARRAS)
SHAPE = (3, 8, 8)
CASES = [(Gaussian(s), s) for s in (KARRAS, TrigFlow())]


def images(n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, *SHAPE, generator=generator, dtype=torch.float64) * 2 - 1


def noise(n, seed=1, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator, dtype=torch.float64)


def close(a, b, to):
    assert (a - b).abs().max() <= to


def edited(editor, x, numbers=(0, 1), *, oracle=ORACLE, schedule=KARRAS, end=None, levels=LEVELS):
    rng = SeedRng(0, numbers[: len(x)])
    edit = editor.prepare(x, rng)
    return run_edit(end or oracle.consistency, schedule, edit, levels, rng=rng, clamped=False)


# Nothing to do: the input comes back.


@pytest.mark.parametrize(("oracle", "schedule"), CASES)
@pytest.mark.parametrize("editor", [Stroke(strength=0.0), Denoise("0.002"), Denoise("0")])
def test_without_noise_the_input_comes_back(editor, oracle, schedule):
    x = images()
    levels = schedule.sigma(schedule.grid(4))
    teacher = trajectory_end(oracle.denoise, schedule, (Heun(),) * 3)
    for end in (oracle.consistency, teacher):
        close(edited(editor, x, end=end, schedule=schedule, levels=levels), x, 1e-7)


def test_little_strength_changes_little_and_more_strength_more():
    x, off = images(), []
    for strength in (0, 0.1, 0.2, 0.3, 0.5, 0.7, 1):
        off.append((edited(Stroke(strength), x, levels=LEVELS[:1]) - x).square().mean())
    assert off == sorted(off)
    assert off[0] < 1e-14
    assert off[1] < 1e-3
    assert off[-1] > 0.3


# Stroke.


@pytest.mark.parametrize("schedule", [KARRAS, TrigFlow(), TrigFlow(sigma_min=0.01, sigma_max=20)])
def test_strength_is_the_place_among_edms_levels(schedule):
    low, high = schedule.noise_range
    levels = [strength_level(schedule, s) for s in np.linspace(0, 1, 40)]
    assert all(a < b for a, b in pairwise(levels))
    assert levels[0] == pytest.approx(low, rel=1e-12)
    assert levels[-1] == pytest.approx(high, rel=1e-12)
    grid = Karras(low, high).grid(40).flip(0).tolist()
    assert levels == pytest.approx(grid, rel=1e-9)


def test_stroke_starts_from_the_noisy_picture():
    x, seen = images(), []

    def watching(x_t, t):
        seen.append((x_t, t))
        return ORACLE.consistency(x_t, t)

    edited(Stroke(0.5), x, end=watching)
    sigma = strength_level(KARRAS, 0.5)
    z = SeedRng(0, (0, 1)).randn(SHAPE).double()
    close(seen[0][0], x + math.sqrt(sigma**2 - 0.002**2) * z, 1e-12)
    below = [sigma, *LEVELS[sigma > LEVELS].tolist()]
    assert [float(t[0]) for _, t in seen] == pytest.approx(below)


def test_full_strength_is_a_sample_of_the_model():
    x = images(1).expand(4000, -1, -1, -1)[:, :, :2, :2]
    out = edited(Stroke(1.0), x, tuple(range(4000)), levels=LEVELS[:1])
    assert out.mean() == pytest.approx(ORACLE.mean, abs=0.01)
    assert out.var(0).mean() == pytest.approx(ORACLE.variance, rel=0.02)
    # What is left of the picture: the trajectory keeps one part in 133 of it.
    assert out.mean(0).std() < 0.03


# Denoise.


@pytest.mark.parametrize(("oracle", "schedule"), CASES)
def test_denoising_goes_to_the_end_of_the_trajectory_and_not_to_the_mean(oracle, schedule):
    sigma = 0.4
    noisy = 0.2 + 0.6 * noise(2) + sigma * noise(2, 2)
    got = edited(Denoise("0.4"), noisy, schedule=schedule, oracle=oracle, levels=LEVELS[:1])
    end = 0.2 + math.sqrt((0.36 + 0.002**2) / (0.36 + sigma**2)) * (noisy - 0.2)
    mean = 0.2 + 0.36 / (0.36 + sigma**2) * (noisy - 0.2)
    close(got, end, 2e-5)
    assert (got - mean).abs().max() > 0.1
    once = trajectory_end(oracle.denoise, schedule, ())
    got = edited(Denoise("0.4"), noisy, schedule=schedule, end=once, levels=LEVELS[:1])
    close(got, mean, 2e-5)


def test_each_picture_has_its_own_noise_level_and_does_not_see_the_others():
    clean = torch.zeros(2, 3, 32, 32, dtype=torch.float64)
    noisy = clean + torch.tensor([0.1, 0.6])[:, None, None, None] * noise(2, shape=(3, 32, 32))
    both = edited(Denoise("auto"), noisy, (4, 9))
    for i, number in enumerate((4, 9)):
        close(edited(Denoise("auto"), noisy[i : i + 1], (number,)), both[i : i + 1], 1e-12)
    edit = Denoise("auto").prepare(noisy, SeedRng(0, (0, 1)))
    path = edit_path(KARRAS, edit, LEVELS)
    assert path[0].tolist() == edit.sigma.tolist()
    counts = [1 + int((own > LEVELS).sum()) for own in edit.sigma]
    assert len(path) == max(counts) > min(counts)
    assert (path[min(counts) :, 0] == 0.002).all()


@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_stroke_does_not_see_other_pictures(strength):
    x = images(3)
    together = edited(Stroke(strength), x, (5, 6, 7))
    close(edited(Stroke(strength), x[1:2], (6,)), together[1:2], 1e-12)


def test_noise_levels_as_typed():
    assert noise_level("0.2") == 0.2
    assert noise_level("25/255") == pytest.approx(50 / 255)
    assert noise_level("auto") is None
    for wrong in ("-1", "1/0", "a lot", "nan", "inf", "25/-255", ""):
        with pytest.raises(ValueError, match="needs sigma like"):
            Denoise(wrong)


PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "moon")


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("astronaut", False),
        ("chelsea", True),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in PHOTOS[1:]),
        pytest.param("moon", True, marks=pytest.mark.slow),
    ],
)
def test_the_noise_of_photographs_is_estimated_within_a_tenth(name, saved):
    data = pytest.importorskip("skimage.data", reason="brings photographs")
    photo = getattr(data, name)()
    photo = torch.from_numpy(photo.reshape(*photo.shape[:2], -1)).permute(2, 0, 1)[None]
    photo = photo[..., :200, :300].double() / 127.5 - 1
    for level in (5, 10, 25, 50):
        noisy = photo + 2 * level / 255 * noise(1, 3, photo.shape[1:])
        if saved:
            noisy = (noisy.clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1
        assert estimate_noise(noisy) == pytest.approx(2 * level / 255, rel=0.1)


def test_the_estimate_grows_with_the_picture_and_needs_some_of_it():
    x = noise(2, shape=(1, 40, 40)) * 0.1
    one, twice = estimate_noise(x), estimate_noise(2 * x)
    close(twice, 2 * one, 1e-12)
    close(estimate_noise(x + 0.3), one, 1e-12)
    assert estimate_noise(torch.ones(1, 3, 16, 16))[0] == 0
    with pytest.raises(DataError, match="too small"):
        estimate_noise(x[..., :5, :5])


# The arc between two noises.


def test_slerp_keeps_the_length_and_moves_the_angle_evenly():
    a, b = noise(2), noise(2, 5)
    b = b / b.flatten(1).norm(dim=1)[:, None, None, None] * 3
    a = a / a.flatten(1).norm(dim=1)[:, None, None, None] * 3
    whole = torch.linalg.vecdot(a.flatten(1), b.flatten(1)).div(9).acos()
    for s in (0.0, 0.25, 0.6, 1.0):
        c = slerp(a, b, torch.full((2,), s, dtype=torch.float64))
        close(c.flatten(1).norm(dim=1), torch.tensor(3.0), 1e-12)
        close(
            torch.linalg.vecdot(a.flatten(1), c.flatten(1)).div(9).clamp(-1, 1).acos(),
            s * whole,
            1e-7,
        )
        alone = slerp(a[1:], b[1:], torch.tensor([s], dtype=torch.float64))
        close(alone, c[1:], 1e-12)


def test_slerp_of_any_two_vectors():
    a = noise(1)
    share = torch.tensor([0.3], dtype=torch.float64)
    close(slerp(a, a, share), a, 1e-12)
    close(slerp(a, 2 * a, share), 1.3 * a, 1e-12)
    close(slerp(a, -a, share), 0.4 * a, 1e-12)
    close(slerp(a, 0 * a, share).isnan().double(), torch.tensor(0.0), 0)
    near = slerp(a, a + 1e-9 * noise(1, 9), share)
    close(near, a, 1e-8)
    for other in (a, -a, 2 * a, noise(1, 3)):
        assert (slerp(a, other, 0 * share) == a).all()
        close(slerp(a, other, 0 * share + 1), other, 1e-15)


@pytest.mark.parametrize("levels", [(), (1.5, 0.5)])
def test_between_seeds_the_ends_are_the_seeds_own_samples(levels):
    t = KARRAS.grid(1)[0]
    ends = [start_noise(KARRAS, SeedRng(seed, (0,)), SHAPE, t) for seed in (3, 8)]
    same = SeedRng(3, (0,) * 5)
    x = [e[0] for e in ends]
    frames = interpolate(ORACLE.consistency, KARRAS, *x, 80.0, 5, levels, rng=same)
    times = torch.tensor([80.0, *levels], dtype=torch.float64)
    for frame, end in ((frames[0], ends[0]), (frames[-1], ends[1])):
        rng = SeedRng(3, (0,))
        sample = sample_consistency(ORACLE.consistency, KARRAS, end, times, rng=rng)
        if not levels:  # In the loop each estimate is clamped.
            close(frame, sample[0].clamp(-1, 1), 1e-9)
        assert frame.abs().max() <= 1
    assert (frames[1:] - frames[:-1]).square().mean((1, 2, 3)).std() < 0.05
    with pytest.raises(ValueError, match="frames >= 2"):
        interpolate(ORACLE.consistency, KARRAS, *x, 80.0, 1, rng=same)


# From pictures to noise.


@pytest.mark.parametrize(("oracle", "schedule"), CASES)
def test_the_ode_backwards_finds_the_noise(oracle, schedule):
    x = 0.9 * images(1)[:, :, :2, :2]
    rough, fine = (
        noise_by_ode(oracle.denoise, schedule, [Heun()] * (n - 1), x, schedule.grid(n), rounds=0)
        for n in (451, 901)
    )
    low, high = (torch.tensor([t], dtype=torch.float64) for t in schedule.span)
    exact, _ = schedule.to_edm(oracle.flow(schedule(low).alpha * x, low, high), high)
    assert (rough - exact).norm() / (fine - exact).norm() == pytest.approx(4, rel=0.05)
    close((4 * fine - rough) / 3 / exact, torch.ones_like(x), 1e-6)


@pytest.mark.parametrize("last", [Euler(), Heun()])
@pytest.mark.parametrize("solver", [Euler(), Heun()])
@pytest.mark.parametrize(("oracle", "schedule"), CASES)
def test_there_and_back_again_with_few_steps(oracle, schedule, solver, last):
    x, path = 0.9 * images(2), (*[solver] * 17, last)
    up = noise_by_ode(oracle.denoise, schedule, path, x, schedule.grid(19), rounds=12)
    end = trajectory_end(oracle.denoise, schedule, path)
    frames = interpolate(end, schedule, *up, schedule.noise_range[1], 3, rng=SeedRng(0, (0,) * 3))
    close(frames[::2], x, 2e-5)  # The sampler's last step removes the noise of 0.002.
    alone = noise_by_ode(oracle.denoise, schedule, path, x[1:], schedule.grid(19), rounds=12)
    close(alone, up[1:], 1e-9)


@pytest.mark.parametrize(("oracle", "schedule"), CASES)
def test_the_search_finds_noise_that_the_model_answers_with_the_picture(oracle, schedule):
    wanted = noise(2, shape=(3, 4, 4))
    t = torch.tensor([schedule.t_max] * 2, dtype=torch.float64)
    high, start = schedule.noise_range[1], noise(2, 4, (3, 4, 4))
    x = oracle.consistency(schedule(t).alpha[0] * high * wanted, t)
    found = noise_by_search(oracle.consistency, schedule, x, start, tol=1e-3)
    assert (found.error <= 1e-3).all()
    close(found.x / high, wanted, 0.05)
    length = (found.x / high).flatten(1).norm(dim=1)
    assert (length - math.sqrt(48)).abs().max() <= 3
    alone = noise_by_search(oracle.consistency, schedule, x[1:], start[1:], tol=1e-3)
    close(alone.x, found.x[1:], 1e-9)
    frames = interpolate(oracle.consistency, schedule, *found.x, high, 3, rng=SeedRng(0, (0,) * 3))
    assert (frames[::2] - x.clamp(-1, 1)).square().mean().sqrt() <= 1e-3


def test_the_search_keeps_noise_as_long_as_noise_and_tells_what_it_missed():
    x = torch.full((1, *SHAPE), 0.99, dtype=torch.float64)
    found = noise_by_search(ORACLE.consistency, KARRAS, x, noise(1), steps=200)
    assert found.error[0] > 0.05  # All pixels at 1.3 standard deviations: no likely picture.
    assert (found.x / 80).norm() <= math.sqrt(192) + 3.001


def test_pictures_with_one_noise_come_back_as_the_noise_goes():
    x, z = 0.9 * images(2), noise(1)
    off = []
    for sigma in (0.002, 0.1, 0.5, 2.0):
        ends = add_noise(KARRAS, x, z, sigma)
        rng = SeedRng(0, (0,) * 3)
        model = ORACLE.consistency
        frames = interpolate(model, KARRAS, *ends, sigma, 3, rng=rng, straight=True)
        middle = add_noise(KARRAS, x.mean(0, keepdim=True), z, sigma)
        close(frames[1:2], model(middle, middle.new_tensor([sigma])).clamp(-1, 1), 1e-12)
        off.append(float((frames[::2] - x).square().mean()))
    assert off[0] < 1e-20
    assert off == sorted(off)
