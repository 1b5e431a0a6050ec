"""The editing loop against the released one, on a Gaussian's exact consistency function."""

import os
from dataclasses import replace

import pytest

from cmtool.editors.base import run_edit
from cmtool.editors.colorize import Colorize
from cmtool.editors.inpaint import Inpaint
from cmtool.editors.superres import Superres
from cmtool.schedules.karras import Karras
from tests import golden_cases as golden
from tests.oracles import Gaussian

CASE = golden.cases()["editors"]
STORED = golden.tensors("editors")
ORACLE = Gaussian(Karras(), CASE["mean"], CASE["variance"])
NAMES = sorted(key.removesuffix(".out") for key in STORED if key.endswith(".out"))


class Recorded:
    """Hands out the reference's own noise."""

    def __init__(self, draws):
        self.draws = iter(draws)

    def randn(self, shape):
        return next(self.draws)


def prepared(name):
    clean, rng = STORED["images"].double(), Recorded([])
    if name == "colorize":
        return Colorize().prepare(clean, rng)
    if name == "superres":
        # Their measurement is constant on a block.
        row = STORED["superres.given"][0, 0, 0]
        editor = Superres(int((row != row[0]).nonzero()[0]))
        return editor.prepare(editor.degrade(clean, rng), rng)
    return Inpaint().prepare(clean, rng, mask=1 - STORED["inpaint.mask_known"])


def close(ours, theirs):
    assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_is_the_released_ones(name):
    levels = Karras().grid(CASE["steps"])[CASE["ts"][:-1]]
    edit = replace(
        prepared(name),
        start=STORED[f"{name}.x_T"].double(),
        sigma=levels[:1].expand(len(STORED["images"])),
    )
    rng = Recorded(STORED[f"{name}.noise"])
    close(run_edit(ORACLE.consistency, Karras(), edit, levels, rng=rng), STORED[f"{name}.out"])


@pytest.mark.parametrize("name", NAMES)
def test_a_measurement_is_the_released_ones(name):
    """Theirs is a picture of the same shape: A of it is ours, and it is the smallest one, but for
    unknown pixels of -1."""
    edit, given = prepared(name), STORED[f"{name}.given"].double()
    close(edit.measure(given), edit.y)
    smallest = edit.project(0 * given)
    if name == "inpaint":
        smallest = smallest - (1 - STORED["inpaint.mask_known"])
    close(smallest, given)


@pytest.mark.skipif("CMTOOL_GOLDEN" in os.environ, reason="another folder may hold fewer")
def test_there_are_cases():
    assert NAMES == ["colorize", "inpaint", "superres"]
    assert len(CASE["ts"]) > 2
