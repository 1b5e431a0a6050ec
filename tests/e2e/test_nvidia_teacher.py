"""NVIDIA's pickles where a model is asked for: to distil from, to start from, to sample, to see."""

from pathlib import Path

import numpy as np
import pytest
from cli_world import SMALL_CD, cmtool

from tests import nvidia_files as made

FORMS = {
    "EDMPrecond": {},
    "VPPrecond": {"sigma_min": 0.0009765625, "sigma_max": 152.17},
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100.0},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("cd.toml").write_text(SMALL_CD)
    return tmp_path


def write(kind: str) -> None:
    Path("model.pkl").write_bytes(
        made.pickle_of(made.snapshot(made.small(kind=kind, **FORMS[kind])))
    )


@pytest.mark.parametrize("kind", FORMS)
def test_it_teaches_on_digits(here: Path, kind: str):
    write(kind)
    line = ("distill", "cd.toml", "--teacher", "model.pkl", "--data", "digits", "--device", "cpu")
    done = cmtool(*line, "--max-steps", "3", "--out", "student")
    assert done.exit_code == 0, done.stderr
    assert "teacher model.pkl: Ddpmpp, 10 classes\n" in done.stderr
    assert "student starts from model.pkl\n" in done.stderr
    drawn = cmtool("sample", "student", "--n", "2", "--label", "4", "--out", "o.npz")
    assert drawn.exit_code == 0, drawn.stderr
    with np.load("o.npz") as archive:
        assert archive["arr_0"].shape[:3] == (2, 8, 8)


def test_it_is_sampled_and_described(here: Path):
    write("VPPrecond")
    drawn = cmtool("sample", "model.pkl", "--n", "2", "--steps", "5", "--out", "o.npz")
    assert drawn.exit_code == 0, drawn.stderr
    told = cmtool("info", "model.pkl")
    assert told.exit_code == 0, told.stderr
    for words in ("Ddpmpp", "0.002 .. 80", "nvidia VPPrecond", "8x8"):
        assert words in told.stdout
    assert Path("canary").exists() is False
