"""`cmtool eval` from its commands: models, folders, zips, npz files; processes, kills, damage."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli_world import cmtool, must, started
from PIL import Image
from two_processes import TORCHRUN

from cmtool import checkpoint, images
from cmtool.data.catalog import open_data
from cmtool.data.places import cache_dir
from cmtool.metrics import references
from cmtool.metrics.bootstrap import frechet_interval
from cmtool.metrics.features.base import Extractor
from cmtool.metrics.frechet import Moments, frechet_distance
from cmtool.metrics.inception_score import score_of_chunks, score_of_splits
from cmtool.metrics.kid import kid
from cmtool.metrics.prdc import prdc
from cmtool.metrics.references import write_statistics
from cmtool.workflows import _features, _subjects, evaluate


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own where the models are too."""
    (tmp_path / "dm").symlink_to(models / "dm")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cm").symlink_to(models / "cm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CMTOOL_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def measured(*words: str) -> dict:
    """The report of `cmtool eval`, which must go well."""
    done = cmtool("eval", *words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def values(report: dict, name: str = "FD-pixel") -> list[float]:
    return [row["figures"][name]["value"] for row in report["rows"]]


def pixels_of(archive: str) -> np.ndarray:
    return np.load(archive)["arr_0"].reshape(-1, 64).astype(np.float32) / 255


def digits() -> np.ndarray:
    data = open_data("digits")
    return data.images(np.arange(len(data))).reshape(-1, 64).astype(np.float32) / 255


# The report.


def test_two_models_and_several_steps_are_one_table_one_file_and_one_picture(here: Path):
    words = ["--model", "runs/cm", "--model", "dm@6", "--steps", "1,2", "--n", "60"]
    done = cmtool("eval", "fd", *words, "--repeat", "3")
    assert done.exit_code == 0, done.stderr
    assert sorted(p.name for p in Path("evals").iterdir()) == ["cm-fd.json", "cm-fd.png"]
    with Image.open("evals/cm-fd.png") as picture:
        assert picture.size == (640, 400)
    report = json.loads(Path("evals/cm-fd.json").read_text())
    expected = [("runs/cm", 1), ("runs/cm", 2), ("dm", 6)]
    assert [(row["name"], row["nfe"]) for row in report["rows"][::3]] == expected
    assert [row["seed"] for row in report["rows"]] == [0, 1, 2] * 3
    for group, first in zip(report["summary"], range(0, 9, 3), strict=True):
        mine = values(report)[first : first + 3]
        over = group["figures"]["FD-pixel"]
        assert over["values"] == mine
        assert over["mean"] == pytest.approx(sum(mine) / 3)
        assert (over["min"], over["max"]) == (min(mine), max(mine))
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["images", "NFE", "seed", "n", "FD-pixel"]
    assert len([line for line in lines if line.startswith(("runs/cm", "dm"))]) == 9 + 2 * 3
    assert f"{report['summary'][2]['figures']['FD-pixel']['min']:.4g}" in done.stdout
    # Again: another name, the same figures, nothing drawn.
    began = time.monotonic()
    again = cmtool("eval", "fd", *words, "--repeat", "3")
    assert again.stdout == done.stdout
    assert time.monotonic() - began < 10
    assert Path("evals/cm-fd-2.json").read_bytes() == Path("evals/cm-fd.json").read_bytes()


def test_levels_that_are_typed_are_rows_with_names(here: Path):
    report = measured("fd", "--times", "80,0.8", "--times", "80,1.2", "--n", "40", "--repeat", "2")
    names = ["runs/cm at 80, 0.8"] * 2 + ["runs/cm at 80, 1.2"] * 2
    assert [row["name"] for row in report["rows"]] == names
    assert [group["name"] for group in report["summary"]] == names[::2]
    assert len(set(values(report))) == 4
    assert Path("evals/cm-fd.png").is_file()


def test_the_report_tells_all_that_a_figure_depends_on(here: Path):
    report = measured("fd", "--times", "80,0.8", "--seeds", "4", "--n", "40")
    assert set(report) == {
        *("format", "command", "versions", "protocol", "features", "reference", "rows"),
        *("summary", "notes"),
    }
    assert set(report["versions"]) == {"cmtool", "python", "torch", "numpy"}
    assert report["protocol"] == {
        "name": "clean",
        "features": "pixel",
        "rounding": "nearest",
        "ddof": 1,
        "inception_score": "splits",
        "neighbours": 3,
        "references": None,
    }
    assert set(report["features"]) >= {"features", "weights", "resize", "version", "random"}
    assert report["reference"]["images"] == 1400
    assert len(report["reference"]["sha256"]) == 64
    (row,) = report["rows"]
    assert set(row) == {
        *("name", "model", "kind", "weights", "weights_sha256", "plan", "nfe", "times", "seed"),
        *("labels", "rounding", "n", "figures"),
    }
    assert (row["times"], row["seed"], row["n"]) == ([80, 0.8], 4, 40)
    assert len(row["weights_sha256"]) == 64
    figure = row["figures"]["FD-pixel"]
    assert set(figure) == {"value", "interval", "error", "error_is"}
    assert figure["interval"][0] < figure["value"] < figure["interval"][1]


@pytest.mark.parametrize(
    "words",
    [
        ["--images", "o.npz", "--images", "o.npz", "--data", "digits"],
        ["--model", "dm@4", "--model", "runs/cm", "--model", "dm@4"],
        ["--times", "80,0.8", "--times", "80,0.8"],
    ],
)
def test_a_row_that_comes_twice_is_refused(here: Path, words: list[str]):
    if "o.npz" in words:
        some_digits(20, "o.npz")
    done = cmtool("eval", "fd", *words, *([] if "o.npz" in words else ["--n", "20"]))
    assert done.exit_code == 2
    assert "comes twice" in done.stderr
    assert not Path("evals").exists()


def test_the_protocol_is_that_of_the_data_set_that_is_named_or_of_the_models():
    model = SimpleNamespace(recipe=SimpleNamespace(data=SimpleNamespace(name="cifar10")))
    models = [_subjects.Opened(Path("cm"), model, ())]
    for words, expected in (
        ({}, "cm-cifar10"),
        ({"data": "digits"}, "clean"),
        ({"data": "imagenet64"}, "adm"),
        # A file's or folder's name tells no data set.
        ({"data": "cifar10-32x32.npz"}, "cm-cifar10"),
        ({"data": "digits", "protocol": "edm"}, "edm"),
    ):
        assert _subjects.rules_for(_subjects.Request(**words), models).name == expected
    assert _subjects.rules_for(_subjects.Request(data="o.npz", images=("a",)), []).name == "clean"


def test_statistics_of_openai_hold_images_of_one_size(here: Path, monkeypatch: pytest.MonkeyPatch):
    network = fake_inception()
    network.facts["mode"] = "legacy_tensorflow"
    monkeypatch.setattr(evaluate, "open_features", lambda *_, **__: network)
    monkeypatch.setattr(references, "DIM", 12)
    pixels = open_data("digits").images(np.arange(1400))
    own = Moments.of(network(pixels).features)
    for name, side in (("own", 8), ("large", 16)):
        arr = np.zeros((9, side, side, 1), np.uint8) if side > 8 else pixels.transpose(0, 2, 3, 1)
        np.savez(f"{name}.npz", mu=own.mean, sigma=own.covariance, arr_0=arr)
    words = ["--n", "30", "--model", "runs/cm", "--protocol", "adm"]
    figure, theirs = (
        measured("fid", *words, *more)["rows"][0]["figures"]["FID"]["value"]
        for more in ((), ("--data", "own.npz"))
    )
    assert theirs == pytest.approx(figure, rel=1e-6)
    done = cmtool("eval", "fid", *words, "--data", "large.npz")
    assert done.exit_code == 2
    assert "images of 1x16x16, the measured ones are 1x8x8" in done.stderr
    np.savez("bare.npz", mu=own.mean, sigma=own.covariance)
    notes = measured("fid", *words, "--data", "bare.npz")["notes"]
    assert any("bare.npz does not tell how its images were resized" in note for note in notes)


def test_without_a_word_it_takes_the_newest_run_and_50_000_images(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    monkeypatch.setattr(evaluate, "gather", lambda vault, *_, **__: asked.append(vault.n))
    monkeypatch.setattr(evaluate, "open_features", lambda *_, **__: fake_inception())
    monkeypatch.setattr(evaluate._figures, "figures", lambda *_: {"FID": {"value": 1.0}})
    report = measured("fid", "--steps", "1")
    assert asked == [50_000]
    assert report["rows"][0]["model"] == "runs/cm"
    assert report["reference"]["name"] == "digits"
    assert report["protocol"]["name"] == "clean"
    assert report["notes"] == []


def fake_inception() -> Extractor:
    """Twelve features and ten probabilities, called Inception."""
    torch.manual_seed(0)
    weights, head = torch.randn(192, 12), torch.randn(12, 10)

    def network(x: torch.Tensor, wanted: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        features = (x.flatten(1).float() / 255) @ weights
        return features, (features @ head).softmax(1) if wanted else None

    facts = {"features": "inception", "weights": "made up", "resize": "none", "version": 1}
    return Extractor("inception", 12, 10, network, facts, official=True)


@pytest.mark.parametrize("protocol", ["cm-cifar10", "adm"])
def test_every_figure_is_that_of_the_features(
    here: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
):
    network = fake_inception()
    monkeypatch.setattr(evaluate, "open_features", lambda *_, **__: network)
    words = ["--steps", "2", "--n", "200", "--protocol", protocol, "--save-samples", "o.npz"]
    report = measured("all", *words)
    drawn = np.load("o.npz")["arr_0"].transpose(0, 3, 1, 2)
    data = open_data("digits")
    x, p = network(drawn, probabilities=True)
    y = network(data.images(np.arange(1400))).features
    found = report["rows"][0]["figures"]
    names = ["FID", "KID", "IS", "precision", "recall", "density", "coverage"]
    assert list(found) == names
    assert report["rows"][0]["rounding"] == "floor"
    reference = Moments.of(y)
    assert found["FID"]["value"] == pytest.approx(frechet_distance(Moments.of(x), reference))
    interval = frechet_interval(x, reference, repeats=20)
    assert found["FID"]["interval"] == pytest.approx([interval.low, interval.high])
    assert (found["KID"]["value"], found["KID"]["error"]) == pytest.approx(kid(x, y))
    score = (score_of_chunks if protocol == "adm" else score_of_splits)(p)
    assert (found["IS"]["value"], found["IS"]["deviation"]) == pytest.approx(score)
    near, crowd = prdc(y, x, 3), prdc(y, x, 5)
    expected = (near.precision, near.recall, crowd.density, crowd.coverage)
    assert tuple(found[name]["value"] for name in names[3:]) == pytest.approx(expected)
    # Each alone is the same, and draws nothing.
    monkeypatch.setattr(_subjects, "draw", None)
    for command, name in (("fid", "FID"), ("kid", "KID"), ("is", "IS"), ("pr", "recall")):
        assert measured(command, *words[:-2])["rows"][0]["figures"][name] == found[name]


def test_an_inception_score_needs_no_reference(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluate, "open_features", lambda *_, **__: fake_inception())
    must("sample", "runs/cm", "--n", "30", "--out", "o.npz")
    report = measured("is", "--images", "o.npz")
    assert report["reference"] is None
    assert list(report["rows"][0]["figures"]) == ["IS"]
    assert report["rows"][0]["figures"]["IS"]["value"] >= 1


@pytest.mark.slow
def test_lite0_in_place_of_inception(here: Path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra offline")
    report = measured("all", "--features", "lite0", "--n", "12", "--data", some_digits(12))
    names = ["FD", "KID", "precision", "recall", "density", "coverage"]
    assert list(report["rows"][0]["figures"]) == [f"{name}-lite0" for name in names]
    assert len(report["features"]["weights"]) == 64


def some_digits(n: int, name: str = "some.npz") -> str:
    pixels = open_data("digits").images(np.arange(n))
    np.savez(name, arr_0=pixels.transpose(0, 2, 3, 1))
    return name


def test_floor_and_nearest_are_other_bytes(here: Path):
    nearest, floor = (
        measured("fd", "--n", "100", "--protocol", name, "--save-samples", f"{name}.npz")
        for name in ("clean", "cm-cifar10")
    )
    a, b = (np.load(f"{name}.npz")["arr_0"].astype(int) for name in ("clean", "cm-cifar10"))
    assert set(np.unique(a - b)) == {0, 1}
    assert values(nearest) != values(floor)


# The same images from everywhere.


def test_a_model_a_folder_a_zip_and_an_npz_are_one(here: Path):
    model = measured("fd", "--n", "50", "--save-samples", "o", "--model", "runs/cm")
    must("sample", "runs/cm", "--n", "50", "--out", "o.npz")
    with zipfile.ZipFile("o.zip", "w") as archive:
        for path in sorted(Path("o").iterdir()):
            archive.write(path, path.name)
    assert Path("o/grid.png").is_file()
    words = [w for place in ("o", "o.zip", "o.npz") for w in ("--images", place)]
    files = measured("fd", *words, "--data", "digits")
    assert values(files) == values(model) * 3
    assert values(files)[0] == pytest.approx(
        frechet_distance(Moments.of(pixels_of("o.npz")), Moments.of(digits())), rel=1e-6
    )
    assert [row["n"] for row in files["rows"]] == [50] * 3
    assert len({row["sha256"] for row in files["rows"]}) == 1
    # And as references, by name, npz and statistics.
    data = open_data("digits")
    pixels = data.images(np.arange(len(data)))
    np.savez("reference.npz", arr_0=pixels.transpose(0, 2, 3, 1))
    for place in ("reference.npz", "statistics.npz"):
        if place == "statistics.npz":
            facts = {"features": model["features"]}
            del facts["features"]["random"]
            write_statistics(Path(place), Moments.of(digits()), facts)
        other = measured("fd", "--images", "o", "--data", place)
        assert values(other) == pytest.approx(values(model), rel=1e-6)
        assert other["reference"]["name"] == place


def test_a_reference_of_statistics_alone_leaves_out_what_needs_images(here: Path):
    write_statistics(Path("s.npz"), Moments.of(digits()), {})
    facts = measured("fd", "--n", "50", "--model", "runs/cm")["features"]
    del facts["random"]
    write_statistics(Path("s.npz"), Moments.of(digits()), {"features": facts})
    report = measured("all", "--features", "pixel", "--n", "50", "--data", "s.npz")
    assert list(report["rows"][0]["figures"]) == ["FD-pixel"]
    assert any("statistics alone" in note for note in report["notes"])


# Notes.


def test_notes_stand_in_the_result(here: Path):
    done = cmtool("eval", "fd", "--n", "50", "--model", "runs/cm")
    notes = [line for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: n = 50 is below 50,000: not to be held against published figures, nor against "
        "another n",
        "note: n = 50 images for 64 features: the covariance is rank-deficient, the distance "
        "biased upwards",
    ]
    assert json.loads(Path("evals/cm-fd.json").read_text())["notes"] == [n[6:] for n in notes]


def test_two_n_in_one_table_are_told(here: Path):
    for n in (20, 30):
        must("sample", "runs/cm", "--n", str(n), "--out", f"{n}.npz")
    report = measured("fd", "--images", "20.npz", "--images", "30.npz", "--data", "digits")
    assert "20.npz and 30.npz cannot be compared: n 20 and 30" in report["notes"]
    report = measured("fd", "--images", "30.npz", "--n", "10", "--data", "digits")
    assert "of 30.npz the first 10 of 30 images, in their order" in report["notes"]


def test_colour_size_format_and_classes_that_differ_are_told(here: Path):
    random = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    for i, image in enumerate(random):
        path = Path("photos", "abc"[min(i, 2)], f"{i}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    report = measured("fd", "--n", "20", "--model", "runs/cm", "--data", "photos")
    told = "\n".join(report["notes"])
    assert "the reference was cut and resized to 8x8" in told
    assert "runs/cm knows 10 classes, the reference has 3" in told
    report = measured("fd", "--images", "photos", "--data", "photos", "--bootstrap", "0")
    assert any("lossy" in note for note in report["notes"])
    assert values(report)[0] == pytest.approx(0, abs=1e-6)
    Path("few").mkdir()
    for i, image in enumerate(images.read(p, "") for p in sorted(Path("photos").rglob("*.jpg"))):
        images.save_png(Path(f"few/{i}.png"), image[:, :, :1])
    report = measured("fd", "--images", "few", "--data", "photos")
    assert any("colours were made grey" in note for note in report["notes"])
    assert not any("cut and resized" in note for note in report["notes"])
    report = measured("fd", "--images", "photos", "--data", "few")
    assert any("grey images were repeated to RGB" in note for note in report["notes"])


# Intervals.


def test_bootstrap_intervals_hold_the_mean_of_other_seeds(here: Path):
    report = measured("fd", "--n", "300", "--repeat", "20", "--model", "runs/cm")
    mean = report["summary"][0]["figures"]["FD-pixel"]["mean"]
    ends = [row["figures"]["FD-pixel"]["interval"] for row in report["rows"]]
    assert sum(low <= mean <= high for low, high in ends) >= 15
    spread = report["summary"][0]["figures"]["FD-pixel"]["deviation"]
    errors = [row["figures"]["FD-pixel"]["error"] for row in report["rows"]]
    assert 0.6 < np.mean(errors) / spread < 1.6


# Processes, kills and damage.


@pytest.mark.multi
def test_two_processes_make_the_report_of_one(here: Path):
    words = ["--steps", "1,2", "--n", "1500", "--save-samples", "s", "--model", "runs/cm"]
    command = [*TORCHRUN, "-m", "--", "cmtool", "eval", "fd", *words, "--out", "two.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("FD-pixel") == 1, "two processes speak"
    os.rename("cache", "old")
    os.rename("s", "two")
    must("eval", "fd", *words, "--out", "one.json")
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()
    for place in sorted(Path("s").iterdir()):
        theirs = {p.name: p.read_bytes() for p in Path("two", place.name).iterdir()}
        assert {p.name: p.read_bytes() for p in place.iterdir()} == theirs


@pytest.mark.parametrize(
    "sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_stopped_command_goes_on(here: Path, sent: signal.Signals):
    words = ["--model", "dm@12", "--n", "3000", "--bootstrap", "0", "--out", "o.json"]
    features = here / "cache" / "features"

    def done() -> list[Path]:
        return list(features.glob("*/*.done"))

    # Two blocks are the reference's.
    process = started(here, lambda: len(done()) >= 2 + 1, "eval", "fd", *words)
    process.send_signal(sent)
    stderr = process.communicate()[1]
    assert not Path("o.json").exists()
    if sent == signal.SIGTERM:
        assert process.returncode == 143
        assert "of 3,000 images are kept" in stderr
        assert "hint: the same command goes on" in stderr
    before = {mark: mark.stat().st_mtime_ns for mark in done()}
    must("eval", "fd", *words)
    assert {mark: mark.stat().st_mtime_ns for mark in before} == before
    os.rename("cache", "old")
    must("eval", "fd", *words[:-1], "whole.json")
    assert Path("o.json").read_bytes() == Path("whole.json").read_bytes()


def test_damage_in_the_cache_is_noticed_and_mended(here: Path):
    words = ["fd", "--n", "1500", "--model", "runs/cm"]
    first = measured(*words)
    kept = sorted(cache_dir().glob("features/*/*"))
    assert len(kept) == 5 + 4
    for path in kept:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        assert measured(*words)["rows"] == first["rows"], path.name
        if path.suffix != ".done":
            path.write_bytes(path.read_bytes()[: len(content) // 3])
            assert measured(*words)["rows"] == first["rows"], path.name


def test_a_full_disk_is_one_error(here: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(_features, "_write_at", full)
    done = cmtool("eval", "fd", "--n", "50", "--model", "runs/cm")
    assert done.exit_code == 2
    assert "error: cannot write features to '" in done.stderr
    assert "': no space left on device\n" in done.stderr
    monkeypatch.undo()
    assert "Traceback" not in done.stderr


def test_other_settings_are_other_entries(here: Path):
    base = ["fd", "--n", "50", "--model", "runs/cm", "--bootstrap", "0"]
    found = {values(measured(*base))[0]}
    for more in (
        *(["--seed", "1"], ["--steps", "2"], ["--times", "40"], ["--n", "51"]),
        *(["--weights", "student"], ["--protocol", "cm-cifar10"]),
        *(["--model", "dm@6"], ["--model", "dm@6", "--solver", "euler"]),
    ):
        words = [*base[:3], *more, *base[5:]] if "--model" in more else [*base, *more]
        found.add(values(measured(*words))[0])
    assert len(found) == 9, found
    # The same path with other weights, no figure of which may come from the cache.
    opened = checkpoint.Checkpoint.open(Path("runs/cm"))
    weights = opened.weights(opened.choose("ema"))
    for scale in (1.0, 1.1):
        scaled = {name: value * scale for name, value in weights.items()}
        checkpoint.write_file(Path("one.safetensors"), opened.meta, opened.recipe, scaled)
        found.add(values(measured(*base[:3], "--model", "one.safetensors", *base[5:]))[0])
    assert len(found) == 10
    shutil.rmtree(cache_dir())
    assert values(measured(*base))[0] in found


@pytest.mark.slow
def test_memory_does_not_grow_with_n(here: Path):
    script = """
import resource, sys
from cmtool.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)
"""
    Path("measure.py").write_text(script)
    peaks = []
    for n in (4_000, 60_000):
        words = ["eval", "fd", "--n", str(n), "--bootstrap", "0", "--model", "runs/cm"]
        done = subprocess.run(
            [sys.executable, "measure.py", *words], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] < peaks[0] + 8, peaks  # All features are 15 MiB.
