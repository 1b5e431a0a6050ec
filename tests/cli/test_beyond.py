"""`cmtool eval consistency`, `lpips`, `neighbours`, `classes`, `speed`, from the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_world import cmtool

import cmtool as api
from cmtool import images
from cmtool.data.catalog import open_data
from cmtool.metrics.frechet import Moments, frechet_distance, pixel_features


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models; no weights of LPIPS."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for name in ("cm", "dm", "classes"):
        shutil.copytree(world / name, name)
    return tmp_path


def measured(command: str, *words: str) -> dict:
    done = cmtool("eval", command, *words, "--out", "o.json", "--overwrite")
    assert done.exit_code == 0, done.stderr
    content = json.loads(Path("o.json").read_text())
    assert content["command"] == command
    assert {"format", "versions", "rows", "notes"} <= set(content)
    printed = cmtool("eval", command, *words, "--out", "p.json", "--overwrite", "--json")
    if command != "speed":
        assert json.loads(printed.stdout) == content
    return content


@pytest.mark.parametrize("start", ["noise", "data"])
def test_consistency_takes_the_recorded_teacher(here: Path, start: str):
    words = ("--model", "cm", "--n", "6", "--bins", "2", "--teacher-steps", "4", "--steps", "1,2")
    content = measured("consistency", *words, "--start", start)
    assert content["teacher"]["model"].startswith("dm/step-")
    assert content["teacher"]["steps"] == 4
    assert [part["from"] for part in content["bins"]] == pytest.approx([80, 2.515], rel=1e-3)
    assert [row["nfe"] for row in content["rows"]] == [1, 2]
    assert content["notes"][0].startswith("no LPIPS without AlexNet's weights: put https://")
    given = measured(
        "consistency", *words, "--start", start, "--teacher", "dm", "--batch-size", "4"
    )
    for a, b in zip(content["bins"], given["bins"], strict=True):
        expected = a["figures"]["self-consistency"]["value"]
        assert b["figures"]["self-consistency"]["value"] == pytest.approx(expected, rel=1e-5)


def test_a_teacher_that_is_gone_is_asked_for(here: Path):
    shutil.rmtree("dm")
    done = cmtool("eval", "consistency", "--model", "cm")
    assert done.exit_code == 2
    assert "the teacher of cm/step-00000002 is no longer at 'dm/step-00000002'" in done.stderr
    assert "hint: --teacher MODEL" in done.stderr
    content = measured("speed", "--model", "cm", "--steps", "1", "--repeats", "1")
    assert content["teacher"] is None
    assert content["notes"][0].startswith("no teacher to compare with: ")
    shutil.copytree("cm", "other")
    found = next(Path("other").glob("step-*/meta.json"))
    found.write_text(found.read_text().replace("dm/step-00000002", "folder/gone.safetensors"))
    done = cmtool("eval", "consistency", "--model", "other")
    assert "error: the teacher of other/step-00000002 cannot be opened: " in done.stderr


@pytest.mark.parametrize("command", ["consistency", "lpips", "neighbours", "classes", "speed"])
def test_several_processes_are_refused(here: Path, command: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = cmtool("eval", command, "--model", "cm")
    assert done.exit_code == 2
    assert f"error: eval {command} runs in one process" in done.stderr
    assert not Path("evals").exists()


def test_diversity_is_that_of_the_samples(here: Path):
    content = measured("lpips", "--model", "cm", "--steps", "2", "--n", "12", "--seed", "3")
    x = api.sample("cm", 12, steps=2, seed=3).clamp(-1, 1).double().flatten(1)
    pairs = (x[:, None] - x).square().mean(2)
    expected = float(pairs.sum() / (12 * 11)) ** 0.5
    row, digits = content["rows"]
    assert row["figures"]["rms of pairs"]["value"] == pytest.approx(expected, rel=1e-6)
    assert row["figures"]["rms of pairs"]["pairs"] == 66
    assert (digits["name"], digits["n"]) == ("digits", 12)
    assert "LPIPS of pairs" not in row["figures"]
    assert content["notes"][0].startswith("no LPIPS without AlexNet's weights: put https://")


def test_diversity_within_a_class(here: Path):
    content = measured("lpips", "--model", "classes", "--n", "40", "--steps", "3")
    assert cmtool("sample", "classes", "--n", "40", "--steps", "3", "--out", "s.npz").exit_code == 0
    labels = torch.from_numpy(np.load("s.npz")["arr_1"])
    x = api.sample("classes", 40, steps=3).clamp(-1, 1).double().flatten(1)
    own = (labels[:, None] == labels).triu(1)
    expected = float((x[:, None] - x).square().mean(2)[own].mean()) ** 0.5
    figure = content["rows"][0]["figures"]["rms in a class"]
    assert figure["pairs"] == int(own.sum())
    assert figure["value"] == pytest.approx(expected, rel=1e-6)
    digits = content["rows"][1]["figures"]
    assert digits["rms in a class"]["value"] < digits["rms of pairs"]["value"]


def test_a_model_that_gives_training_images_is_noticed(here: Path):
    assert cmtool("sample", "cm", "--n", "40", "--out", "s").exit_code == 0
    Path("s/grid.png").unlink()
    words = ("--model", "cm", "--n", "40", "--show", "3", "--k", "2")
    content = measured("neighbours", *words, "--data", "s")
    figures = content["rows"][0]["figures"]
    assert figures["median"]["value"] == figures["least"]["value"] == 0
    assert figures["nearer than 1%"]["value"] == 1
    assert any(note.startswith("no test images") for note in content["notes"])
    assert images.read(Path("o.png"), "o").shape[2] == 3
    assert Path("o-distances.png").is_file()
    own = measured("neighbours", *words)["rows"][0]
    assert own["held_out"] == "397 test images"
    assert own["figures"]["least"]["value"] > 0


def test_each_class_has_its_distance(here: Path):
    steps = ("--per-label", "7", "--steps", "3")
    content = measured("classes", "--model", "classes", "--features", "pixel", *steps)
    assert cmtool("sample", "classes", *steps, "--out", "s.npz").exit_code == 0
    drawn = np.load("s.npz")["arr_0"].transpose(0, 3, 1, 2)
    data = open_data("digits")
    real = data.images(np.flatnonzero(data.labels == 3))
    assert [row["class"] for row in content["rows"]] == [*"0123456789", None]
    row = content["rows"][3]
    assert (row["n"], row["references"]) == (7, len(real))
    expected = frechet_distance(
        Moments.of(pixel_features(drawn[21:28])), Moments.of(pixel_features(real))
    )
    assert row["figures"]["FD-pixel"]["value"] == pytest.approx(expected, rel=1e-6)
    assert any("7 images for 64 features" in note for note in content["notes"])


def test_speed_tells_how_it_was_measured(here: Path):
    words = ("--model", "cm", "--batch-size", "4", "--repeats", "2", "--warm-up", "0")
    content = measured("speed", *words)
    assert [row["nfe"] for row in content["rows"]] == [1, 2, 4, 35]
    assert content["device"] == "cpu"
    assert content["threads"] == torch.get_num_threads()
    assert (content["precision"], content["batch_size"]) == ("float32", 4)
    assert (content["repeats"], content["warm_up"], content["latency_batch_size"]) == (2, 0, 1)
    first, teacher = content["rows"][0]["figures"], content["rows"][-1]["figures"]
    assert teacher["images/s over teacher's"]["value"] == 1
    assert first["images/s"]["value"] > teacher["images/s"]["value"]
    ratio = first["images/s"]["value"] / teacher["images/s"]["value"]
    assert first["images/s over teacher's"]["value"] == pytest.approx(ratio)
