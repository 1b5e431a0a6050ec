"""Padding, resizing and tiles: what is brought back, and what must not leak."""

from itertools import pairwise

import pytest
import torch

import cmtool
from cmtool.workflows._edit_sizes import (
    Padding,
    around,
    bring_into_hole,
    fitted,
    resize,
    shrink_known,
    tile_starts,
    tiled,
)


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [((32, 32), (32, 32)), ((64, 32), (32, 16)), ((10, 7), (10, 7)), ((3, 10_000), (1, 32))],
)
def test_fitted_keeps_the_shape(size: tuple[int, int], expected: tuple[int, int]):
    assert fitted(size, (32, 32)) == expected


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 8), (8, 3), (9, 9)])
def test_padding_comes_back_and_mirrors(size: tuple[int, int]):
    x = noise(2, 3, *size)
    padding = Padding(size, (8, 8))
    padded = padding.pad(x)
    assert padded.shape[2:] == (max(8, size[0]), max(8, size[1]))
    assert torch.equal(padding.crop(padded), x)
    twice = padded.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(padding.crop(twice, 2)[:, :, ::2, ::2], x)
    top = padding.before[0]
    if top and size[0] > 1:
        assert torch.equal(padded[:, :, top - 1], padded[:, :, top + 1])


def test_small_steps_of_padding_are_torchs_reflection():
    x = noise(1, 1, 6, 6)
    expected = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    assert torch.equal(Padding((6, 6), (8, 8)).pad(x), expected)


def test_nothing_of_the_hole_leaks_into_the_small_picture():
    x = noise(1, 3, 40, 24)
    hole = torch.zeros(1, 1, 40, 24, dtype=torch.float64)
    hole[:, :, 9:30, 5:17] = 1
    other = torch.where(hole > 0, noise(1, 3, 40, 24).flip(2), x)
    small, small_hole = shrink_known(x, hole, (8, 5))
    assert torch.equal(small, shrink_known(other, hole, (8, 5))[0])
    # A small pixel is in the hole if any part of it is.
    touched = resize(hole, (8, 5)) > 0
    assert (small_hole[touched & (small_hole > 0)] == 1).all()
    assert small_hole[:, :, 1:6, 1:4].all()
    flat = torch.full_like(x, 0.3)
    known = small_hole.expand_as(small) == 0
    assert shrink_known(flat, hole, (8, 5))[0][known] == pytest.approx(0.3)


@pytest.mark.parametrize("size", [(40, 24), (300, 7), (8, 8)])
def test_only_the_hole_changes(size: tuple[int, int]):
    x = noise(2, 3, *size)
    hole = torch.zeros(1, 1, *size, dtype=torch.float64)
    hole[:, :, 3:5, 1:4] = 1
    found = bring_into_hole(x, hole, 0.5 * noise(2, 3, *fitted(size, (8, 8))).flip(0))
    outside = hole.expand_as(x) == 0
    assert torch.equal(found[outside], x[outside])
    assert (found[~outside] != x[~outside]).all()


def test_the_edge_of_the_hole_takes_the_colours_around():
    x = torch.full((1, 1, 64, 64), 0.5, dtype=torch.float64)
    hole = torch.zeros_like(x)
    hole[:, :, :, 32:] = 1
    found = bring_into_hole(x, hole, torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    row = found[0, 0, 32, 32:]
    assert row[0] == pytest.approx(0.5, abs=0.05)
    assert abs(float(row[-1])) < 1e-3
    assert (row.diff() <= 1e-4).all()


def test_tiles_cover_evenly():
    for size in (8, 9, 13, 14, 15, 100, 1001):
        starts = tile_starts(size, 8)
        assert (starts[0], starts[-1]) == (0, size - 8)
        assert max((b - a for a, b in pairwise(starts)), default=0) <= 6


def test_tiles_of_a_pixelwise_model_are_the_whole():
    spent = []

    def pixelwise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (3, 8, 8)
        return x * t[:, None, None, None]

    x, t = noise(2, 3, 21, 13), torch.tensor([0.5, 2.0], dtype=torch.float64)
    whole = tiled(pixelwise, (8, 8), 4, spent.append)(x, t)
    assert torch.allclose(whole, pixelwise_whole(x, t), atol=1e-14)
    assert sum(spent) == 2 * len(tile_starts(21, 8)) * len(tile_starts(13, 8))
    assert max(spent) <= 4


def pixelwise_whole(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return x * t[:, None, None, None]


def test_tiles_cross_fade_evenly():
    """Two tiles that disagree by 1, over an overlap of 8 pixels: 8 equal steps but the outer
    two."""
    calls = []

    def biased(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(0)
        return torch.zeros_like(x) + len(calls)

    whole = tiled(biased, (8, 32), 1, lambda n: None)(noise(1, 1, 8, 56), torch.ones(1))
    steps = whole.diff(dim=3)[0, 0, 0, 24:31]
    assert steps == pytest.approx(1 / 8)
    assert float(whole.diff(dim=3).max()) == pytest.approx(1 / 8)


def test_a_window_about_a_hole_lies_in_the_picture_and_holds_the_hole():
    for rows, columns in (
        ((0, 3), (0, 2)),
        ((37, 40), (28, 30)),
        ((5, 35), (4, 9)),
        ((9, 10), (0, 30)),
    ):
        hole = torch.zeros(1, 1, 40, 30)
        hole[..., slice(*rows), slice(*columns)] = 1
        window = around(hole, (8, 8))
        side = max(2 * (rows[1] - rows[0]), 2 * (columns[1] - columns[0]), 8)
        assert [w.stop - w.start for w in window] == [min(side, 40), min(side, 30)]
        assert hole[(..., *window)].sum() == hole.sum()
        assert all(w.start >= 0 and w.stop <= n for w, n in zip(window, (40, 30), strict=True))


def test_pictures_with_holes_at_other_places_come_out_as_each_would_alone():
    model = cmtool.load("shipped/digits", device="cpu")
    large = torch.rand(3, 1, 40, 30, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(3, 1, 40, 30)
    mask[0, :, 20:24, 10:13] = 1
    mask[1, :, 2:14, 18:28] = 1
    whole = cmtool.edit(model, "inpaint", large, mask=mask, steps=2, label=3)
    for i in (0, 1):
        some = slice(i, i + 1)
        alone = cmtool.edit(model, "inpaint", large[some], mask=mask[some], steps=2, label=3)
        assert torch.equal(whole[some], alone)
        assert not torch.equal(alone, large[some])
    assert torch.equal(whole[2], large[2])


def test_a_small_hole_in_a_large_picture_is_edited_at_full_resolution():
    """Nothing is resized where the window fits into the model's images: the same as its crop."""
    model = cmtool.load("shipped/digits", device="cpu")
    large = torch.rand(1, 1, 40, 30, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 1, 40, 30)
    mask[..., 20:24, 10:13] = 1
    window = (..., *around(mask, (8, 8)))
    whole = cmtool.edit(model, "inpaint", large, mask=mask, steps=3, label=3)
    part = cmtool.edit(model, "inpaint", large[window], mask=mask[window], steps=3, label=3)
    assert torch.equal(whole[window], part)
    assert torch.equal(torch.where(mask > 0, 0, whole), torch.where(mask > 0, 0, large))
