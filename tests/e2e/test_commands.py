"""The main line by its commands, in processes of their own: train, distil, sample, describe; be
killed, stopped and resumed; take a teacher in OpenAI's layout."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cli_world import COMMAND, SMALL, SMALL_CD, cmtool, environment, started
from PIL import Image

from cmtool import recipe


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *words], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/digits-dsm, a conditional teacher, and runs/digits-cd, its student."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "dsm.toml").write_text(SMALL.replace("[data]\n", "[data]\nconditional = true\n"))
    (folder / "cd.toml").write_text(SMALL_CD)
    trained = run(folder, "train", "dsm.toml", "--max-steps", "100", "--lr", "0.01")
    assert trained.stdout == "runs/digits-dsm\n"
    distilled = run(folder, "distill", "cd.toml", "--teacher", "runs/digits-dsm")
    assert distilled.stdout == "runs/digits-cd\n"
    return folder


def logged(out: Path) -> list[int]:
    """The steps in a run's log."""
    return [json.loads(line)["index"] for line in (out / "log.jsonl").read_text().splitlines()]


def meta(out: Path) -> dict[str, object]:
    latest = (out / "latest").read_text()
    return json.loads((out / latest / "meta.json").read_text())


# From a teacher to images.


def test_a_run_is_what_the_design_says(runs: Path):
    for name, kind, steps in (("digits-dsm", "diffusion", 100), ("digits-cd", "consistency", 2)):
        out = runs / "runs" / name
        step = f"step-{steps:08d}"
        assert {p.name for p in out.iterdir()} == {
            *("recipe.toml", "log.jsonl", "samples", "latest", step)
        }
        assert {p.name for p in (out / step).iterdir()} == {
            *("meta.json", "recipe.toml", "student.safetensors", "ema-0.99.safetensors", "resume")
        }
        assert meta(out)["kind"] == kind
        assert (meta(out)["step"], meta(out)["images"]) == (steps, 4 * steps)
        assert logged(out)[-1] == steps
        with Image.open(out / "samples" / f"{step}.png") as grid:
            assert grid.mode == "RGB" or grid.mode == "L"
        assert recipe.load(out / "recipe.toml").train.steps == steps
    origin = meta(runs / "runs" / "digits-cd")["origin"]
    assert origin["teacher"] == "runs/digits-dsm/step-00000100"
    assert origin["data"]["name"] == "digits"


def test_samples_as_folder_grid_and_npz_are_the_same_images(
    runs: Path, monkeypatch: pytest.MonkeyPatch
):
    drawn = run(runs, "sample", "runs/digits-cd", "--n", "10", "--out", "o.npz")
    assert drawn.stdout == "o.npz\n"
    monkeypatch.chdir(runs)
    more = ["sample", "runs/digits-cd", "--n", "10", "--batch-size", "3"]
    assert cmtool(*more, "--out", "o").stdout == "o\no/grid.png\n"
    assert cmtool(*more, "--out", "o.png").stdout == "o.png\n"
    with np.load("o.npz") as archive:
        assert archive.files == ["arr_0", "arr_1"]
        images, labels = archive["arr_0"], archive["arr_1"]
    assert (images.shape, images.dtype) == ((10, 8, 8, 1), np.uint8)
    assert (labels.shape, labels.dtype) == ((10,), np.int64)
    assert images.std() > 10
    names = sorted(path.name for path in Path("o").iterdir())
    assert names == [*(f"{i:05d}.png" for i in range(10)), "grid.png", "labels.txt"]
    for i, image in enumerate(images):
        # Three at a time or ten at once may differ in the last bit, so in one grey level.
        alone = np.asarray(Image.open(f"o/{i:05d}.png"))
        assert np.abs(alone.astype(int) - image[:, :, 0]).max() <= 1
    assert [int(line) for line in Path("o/labels.txt").read_text().split()] == labels.tolist()
    assert Path("o.png").read_bytes() == Path("o/grid.png").read_bytes()


def test_seed_label_and_overwriting(runs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(runs)

    def draw(name: str, *words: str) -> tuple[np.ndarray, np.ndarray]:
        done = cmtool("sample", "runs/digits-cd", "--out", name, *words)
        assert done.exit_code == 0, done.stderr
        with np.load(name) as archive:
            return archive["arr_0"], archive["arr_1"]

    images, _ = draw("a.npz", "--n", "4")
    few, _ = draw("b.npz", "--n", "2")
    assert np.array_equal(images[:2], few)
    other, _ = draw("c.npz", "--n", "4", "--seed", "1")
    assert not np.array_equal(images, other)
    again, labels = draw("a.npz", "--n", "4", "--label", "7", "--overwrite")
    assert labels.tolist() == [7] * 4
    assert not np.array_equal(images, again)
    assert cmtool("sample", "runs/digits-cd", "--n", "5", "--out", "p").exit_code == 0
    assert cmtool("sample", "runs/digits-cd", "--n", "2", "--out", "p", "--overwrite").stdout
    assert sorted(p.name for p in Path("p").glob("0*.png")) == ["00000.png", "00001.png"]


def test_what_ran_is_told(runs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(runs)

    def told(*words: str) -> str:
        return cmtool("sample", *words, "--n", "1", "--out", "t.png", "--overwrite").stderr

    assert "NFE 1 (noise levels 80)" in told("runs/digits-cd")
    assert "NFE 2 (noise levels 80, 0.8)" in told("runs/digits-cd", "--times", "80,0.8")
    assert "NFE 35 (17 heun steps, " in told("runs/digits-dsm")
    assert "NFE 4 (1 heun steps, 1 euler steps, " in told("runs/digits-dsm", "--steps", "4")


def test_without_a_model_the_newest_finished_run_is_sampled(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for i, (name, source) in enumerate(
        [("old", "digits-cd"), ("one", "digits-cd"), ("half", "digits-cd"), ("two", "digits-dsm")]
    ):
        shutil.copytree(runs / "runs" / source, Path("runs", name))
        os.utime(Path("runs", name, "latest"), (1e9 + i, 1e9 + i))
    text = Path("runs/half/step-00000002/recipe.toml")
    text.write_text(text.read_text().replace("steps = 2\n", "steps = 9\n"))
    done = cmtool("sample", "--n", "1", "--out", "o.png")
    assert done.exit_code == 0
    assert done.stderr.splitlines()[:4] == [
        "passed over runs/two: a diffusion model",
        "passed over runs/half: at step 2 of 9",
        "no model is given: taking runs/one",
        "consistency model runs/one/step-00000002: NFE 1 (noise levels 80)",
    ]


def test_info(runs: Path, monkeypatch: pytest.MonkeyPatch):
    told = run(runs, "info", "runs/digits-cd").stdout
    facts = dict(line.split(None, 1) for line in told.splitlines())
    assert facts["kind"] == "consistency"
    assert facts["images"] == "8x8, 1 channel(s), in [-1, 1]"
    assert facts["classes"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert facts["weights"] == "student, ema-0.99"
    assert facts["trained"].startswith("2 steps, 8 images, ")
    monkeypatch.chdir(runs)
    assert "torch" in cmtool("info").stdout
    assert "1,400 of 8x8" in cmtool("info", "digits").stdout


def test_steps_are_reached_exactly_and_then_there_is_nothing_to_do(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    more = ["train", str(runs / "dsm.toml"), "--out", "o", "--log-every", "1"]
    assert cmtool(*more, "--max-steps", "3").exit_code == 0
    assert (meta(Path("o"))["step"], logged(Path("o"))) == (3, [1, 2, 3])
    done = cmtool(*more, "--max-steps", "5", "--resume")
    assert "resuming o/step-00000003 at step 3\n" in done.stderr
    assert (meta(Path("o"))["step"], logged(Path("o"))) == (5, [1, 2, 3, 4, 5])
    before = meta(Path("o"))
    done = cmtool(*more, "--max-steps", "5", "--resume")
    assert (done.exit_code, done.stdout) == (0, "o\n")
    assert "nothing to do: o has 5 steps already\n" in done.stderr
    assert "nan" not in done.stderr
    assert (meta(Path("o")), logged(Path("o"))) == (before, [1, 2, 3, 4, 5])


# Killed, stopped, resumed.


def test_killed_in_the_middle_and_resumed(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    recipe_file = str(runs / "dsm.toml")
    many = ["--max-steps", "1000000", "--save-every", "20", "--log-every", "5"]
    process = started(tmp_path, Path("o/latest").is_file, "train", recipe_file, "--out", "o", *many)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    saved = meta(Path("o"))["step"]
    assert saved > 0
    assert saved % 20 == 0
    end = str(saved + 7)
    resumed = run(tmp_path, "train", recipe_file, "--out", "o", "--resume", "--max-steps", end)
    assert f"resuming o/step-{saved:08d} at step {saved}\n" in resumed.stderr
    run(tmp_path, "train", recipe_file, "--out", "straight", "--max-steps", end)
    assert meta(Path("o"))["sha256"] == meta(Path("straight"))["sha256"]
    assert not list(Path("o").glob("*.tmp"))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal(
    signum: signal.Signals, code: int, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    command = ["train", str(runs / "dsm.toml"), "--out", "o", "--log-every", "1"]
    process = started(tmp_path, Path("o/log.jsonl").is_file, *command, "--max-steps", "1000000")
    process.send_signal(signum)
    _, told = process.communicate()
    assert process.returncode == code
    step = meta(Path("o"))["step"]
    assert told.endswith(
        f"error: stopped by signal {int(signum)} at step {step}, saved in o\n"
        "hint: the same command with --resume goes on\n"
    )
    assert logged(Path("o"))[-1] == step
    done = cmtool(*command, "--max-steps", str(step + 2), "--resume")
    assert done.exit_code == 0
    assert meta(Path("o"))["step"] == step + 2
    assert logged(Path("o")) == list(range(1, step + 3))


# A published layout.


@pytest.fixture
def openai(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """edm.pt of 16x16 images in ten classes, and such images."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(golden / "adm_cond.pt", "edm.pt")
    Path("cd.toml").write_text(SMALL_CD)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        folder = Path("photos", str(i % 10))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")


LINE = ["distill", "--teacher", "edm.pt", "--data", "photos", "--device", "cpu"]


@pytest.mark.usefixtures("openai")
def test_a_teacher_in_openais_layout():
    done = cmtool(*LINE, "cd.toml", "--as", "head_channels=16", "--max-steps", "2")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "runs/photos-cd\n"
    assert [line for line in done.stderr.splitlines() if "assuming" in line] == [
        "edm.pt does not tell precond: assuming edm (--as precond=... to change)",
        "edm.pt does not tell sigma_min: assuming 0.002 (--as sigma_min=... to change)",
        "edm.pt does not tell sigma_max: assuming 80.0 (--as sigma_max=... to change)",
        "edm.pt does not tell image_size: assuming 16 (--as image_size=... to change)",
    ]
    assert "teacher edm.pt: Adm, 10 classes\n" in done.stderr
    assert "student starts from edm.pt\n" in done.stderr
    assert meta(Path("runs/photos-cd"))["image_shape"] == [3, 16, 16]
    assert len(meta(Path("runs/photos-cd"))["classes"]) == 10
    drawn = cmtool("sample", "--n", "2", "--label", "4", "--out", "o.npz")
    assert drawn.exit_code == 0, drawn.stderr
    with np.load("o.npz") as archive:
        assert archive["arr_0"].shape == (2, 16, 16, 3)
        assert archive["arr_1"].tolist() == [4, 4]


@pytest.mark.usefixtures("openai")
def test_its_facts_are_checked():
    done = cmtool(*LINE, "cd.toml", "--as", "head_channels=16", "--as", "image_size=32")
    assert done.exit_code == 2
    assert "error: the teacher makes 3x32x32 images (CxHxW), 'photos' has 3x16x16\n" in done.stderr
    done = cmtool("sample", "edm.pt", "--as", "head_channels=16")
    assert "error: 'edm.pt' does not tell the size of its images\n" in done.stderr
    done = cmtool(*LINE, "cd.toml", "--as", "head_channels=48")
    assert done.exit_code == 2
    assert "error: image_size=16 and head_channels=48 do not fit: " in done.stderr
    done = cmtool(*LINE, "cd.toml", "--as", "sigma_min=90")
    assert "error: --as: needs 0 < sigma_min < sigma_max, got " in done.stderr
    assert not Path("runs").exists()


@pytest.mark.usefixtures("openai")
def test_the_users_own_line_needs_no_recipe():
    done = cmtool(*LINE, "--as", "head_channels=16", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert 'name = "adm"' in done.stdout
    assert "recipe cifar10-cpu/cd\n" in done.stderr
    assert not Path("runs").exists()
