"""A method is one file: take one away and nothing else notices; put one elsewhere, it is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cmtool
from cmtool import registry

PACKAGE = Path(cmtool.__file__).parent
RECIPE = """
[network]
name = "tiny"
width = 16

[denoiser]
precond = "consistency"

[loss]
name = "NAME"

[data]
name = "digits"

[train]
steps = 2
batch_size = 8
"""
LOSS = '''
"""Consistency training with one more field, in somebody else's package."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from cmtool.losses.base import PairLoss


@dataclass(frozen=True)
class Halves(PairLoss):
    """Pairs (t, factor t)."""

    needs_teacher_model: ClassVar[bool] = False

    factor: float = 0.5

    def pairs(self, roles, step):
        t = 0.01 + step.rng.rand()
        return t, self.factor * t
'''


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m cmtool` with the packages that lie in a folder."""
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cmtool", *words]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def train(tmp_path):
    def start(loss: str, *words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "r.toml").write_text(RECIPE.replace("NAME", loss))
        return run(tmp_path, "train", "r.toml", "--out", loss, *words)

    return start


@pytest.mark.parametrize("method", ["ct", "pd", "scd"])
def test_without_its_file_a_method_is_gone_and_the_rest_works(tmp_path, train, method):
    shutil.copytree(PACKAGE, tmp_path / "cmtool", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "cmtool" / "losses" / f"{method}.py").unlink()
    listed = run(tmp_path, "--list", "losses")
    assert listed.stdout.split() == [n for n in registry.names("losses") if n != method]
    gone = train(method)
    assert gone.returncode == 2
    assert f"unknown loss '{method}'" in gone.stderr
    other = train("ict" if method == "ct" else "ct")
    assert other.returncode == 0, other.stderr


def test_a_loss_of_another_package_is_found_by_its_entry_point(tmp_path, train):
    (tmp_path / "halves.py").write_text(LOSS)
    facts = tmp_path / "halves-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: halves\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[cmtool.losses]\nhalves = halves:Halves\n")
    done = train("halves", "--set", "loss.factor=0.25")
    assert done.returncode == 0, done.stderr
    kept = (tmp_path / "halves" / "recipe.toml").read_text()
    assert 'name = "halves"' in kept
    assert "factor = 0.25" in kept
    wrong = train("halves", "--set", "loss.facto=0.25", "--overwrite")
    assert "loss.facto: unknown key (did you mean 'factor'?)" in wrong.stderr
