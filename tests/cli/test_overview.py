"""`cmtool info` with nothing: what is here, in 80 columns, whatever is damaged."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from cli_world import cmtool
from run_folders import TEXT, make_run

from cmtool import checkpoint, shipped
from cmtool.data.places import cache_dir
from cmtool.meta import Meta
from cmtool.metrics.features import inception
from cmtool.recipe import parse
from cmtool.workflows import _machine
from cmtool.workflows._overview import MOST_RUNS, ago, overview

SECTIONS = ["Versions", "Devices", "Data sets", "Feature networks", "Runs in ./runs"]
SECTIONS += ["Shipped models", "Places"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder with empty caches; nothing may be built or read whole."""

    def never(*args: object, **more: object) -> None:
        raise AssertionError("an overview builds and reads no model")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch {1}"))
    monkeypatch.setattr(inception, "CLEANFIDS", tmp_path)
    monkeypatch.setattr(checkpoint, "build", never)
    monkeypatch.setattr(checkpoint, "_sha256", never)


def test_a_fresh_machine():
    done = cmtool("info")
    assert done.exit_code == 0, done.stderr
    assert re.findall(r"^\S.*", done.stdout, re.MULTILINE) == SECTIONS
    for line in done.stdout.splitlines():
        assert len(line) <= 80 or line.count(" ") == len(line) - len(line.lstrip()), line
    plain = " ".join(done.stdout.split())
    for words in (
        "cmtool info cifar10 downloads it",
        "digits inside the package",
        f"put {inception.NAME} into",
        "there is no folder 'runs' here; cmtool train digits/dsm makes one",
        f"torch {torch.__version__}",
    ):
        assert words in plain
    assert not Path("cache").exists()


def test_as_json():
    found = json.loads(cmtool("info", "--json").stdout)
    assert list(found) == SECTIONS
    assert json.loads(cmtool("info", "digits", "--json").stdout)["images"].startswith(
        "1,400 of 8x8"
    )


def test_offline_it_offers_no_download(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CMTOOL_OFFLINE", "1")
    found = overview()
    assert "downloads it" not in str(found["Data sets"])
    assert found["Places"]["downloads"].startswith("off")


def test_data_that_is_there(tmp_path: Path):
    for file in (
        "data/cifar10/train_0.npz",
        "mnist/MNIST/raw/train-images-idx3-ubyte.gz",
        "mnist/MNIST/raw/train-labels-idx1-ubyte.gz",
        "imagenet/train/n01440764/a.JPEG",
        "lsun/cat_train_lmdb/data.mdb",
    ):
        Path("all", file).parent.mkdir(parents=True, exist_ok=True)
        Path("all", file).touch()
    found = overview(Path("all"))["Data sets"]
    assert found["cifar10"] == "in all/data/cifar10"
    assert found["mnist"] == "in all/mnist/MNIST/raw"
    assert found["imagenet64"] == "in all/imagenet/train"
    assert found["lsun-cat"] == "in all/lsun/cat_train_lmdb"
    assert found["lsun-bedroom"].startswith("not found; --data-dir DIR")


def test_weights_that_are_there():
    weights = cache_dir() / "weights"
    weights.mkdir(parents=True)
    (weights / inception.NAME).touch()
    for name in ("mine.toml", "mine.pt2", "alone.toml"):
        (weights / name).touch()
    found = overview()["Feature networks"]
    assert found["inception"].startswith("damaged: ")
    assert found["inception"].endswith("has 0 bytes, not 95,607,719; remove it")
    assert found["mine"] == f"--features {weights / 'mine.pt2'}"
    assert "alone" not in found
    os.truncate(weights / inception.NAME, inception.BYTES)  # Sparse: it takes no space.
    assert overview()["Feature networks"]["inception"] == f"in {weights / inception.NAME}"


def test_runs_newest_first_and_damage_in_its_line():
    make_run(Path("runs/done"))
    make_run(Path("runs/half"), saved=300)
    make_run(Path("runs/bad"))
    Path("runs/bad/step-00000600/meta.json").write_text("{")
    make_run(Path("runs/worse"))
    Path("runs/worse/recipe.toml").write_text("[network")
    Path("runs/no-run").mkdir()
    for age, name in enumerate(("done", "half", "bad", "worse"), 1):
        for file in ("log.jsonl", "latest", "recipe.toml"):
            then = time.time() - 10_000 * age
            os.utime(Path("runs", name, file), (then, then))
    found = overview()["Runs in ./runs"]
    assert list(found) == ["done", "half", "bad", "worse"]
    what = "consistency, ict, tiny, digits 8x8x1 in 10 classes"
    assert found["done"] == f"finished, step 600 of 600, {what}, 2 h ago"
    assert found["half"] == f"interrupted, step 300 of 600 (50 %), {what}, 5 h ago"
    assert re.match(r"damaged, step 600 of 600, .* 8 h ago; \S+meta.json is damaged", found["bad"])
    assert re.match(r"damaged, 11 h ago; recipe.toml:1: not TOML", found["worse"])
    assert cmtool("info").exit_code == 0


def test_a_run_before_its_first_checkpoint_is_no_data_set():
    run = make_run(Path("runs/my run"), saved=300)
    shutil.rmtree(run / "step-00000300")
    (run / "latest").unlink()
    told = cmtool("info", "runs/my run").stdout
    assert "running, step 300 of 600 (50 %), consistency, ict, tiny, digits" in told
    assert "cmtool info 'runs/my run' --html report.html" in told


def test_of_many_runs_the_newest():
    for i in range(MOST_RUNS + 3):
        make_run(Path("runs") / f"r{i}", grids=0, every=300)
    found = overview()["Runs in ./runs"]
    assert len(found) == MOST_RUNS + 1
    assert found["..."] == "and 3 older ones"


def test_shipped_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    assert overview()["Shipped models"] == {"none": "this package came without"}
    meta = Meta(kind="consistency", image_shape=(1, 8, 8), classes=("a", "b"))
    weights = {"w": torch.zeros(500_000)}
    checkpoint.write_file(tmp_path / "digits.safetensors", meta, parse(TEXT, "test"), weights)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "digits.safetensors").read_bytes()[:99])
    found = overview()["Shipped models"]
    assert found["shipped/digits"] == "consistency, ict, tiny, digits 8x8x1 in 2 classes; 2.0 MB"
    assert found["shipped/cut"].startswith("damaged: ")


def test_a_gpu_and_what_it_can(monkeypatch: pytest.MonkeyPatch):
    class Facts:
        name, total_memory, major = "GPU X", 80 * 2**30, 9

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Facts)
    monkeypatch.setattr(_machine.importlib.util, "find_spec", lambda name: None)
    told = overview()["Devices"]["cuda:0"]
    assert told == "GPU X, 80 GiB; bf16, fp16, tf32; no torch.compile: no triton"
    Facts.major = 7
    assert "fp16, no bf16, no tf32" in overview()["Devices"]["cuda:0"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-50, "just now"),
        (50, "just now"),
        (70, "1 min ago"),
        (7190, "119 min ago"),
        (7210, "2 h ago"),
        (172_790, "47 h ago"),
        (172_810, "2 days ago"),
    ],
)
def test_ages(seconds: float, told: str):
    assert ago(time.time() - seconds) == told
