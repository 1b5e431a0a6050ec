"""The models that come with the package: what they are, that they keep their figures, that they go
by name wherever a model is taken, and that they are taken where none is named."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from by_path import module_at
from cli_world import SMALL, cmtool, must
from PIL import Image

import cmtool as api
from cmtool import checkpoint, images, shipped
from cmtool import recipe as recipes
from cmtool.data.catalog import open_data
from cmtool.denoiser import Denoiser
from cmtool.errors import CheckpointError
from cmtool.foreign import hub
from cmtool.meta import Meta
from cmtool.metrics.frechet import Moments, frechet_distance, pixel_features
from cmtool.recipe import Recipe
from cmtool.tensor_file import read_tensors
from cmtool.workflows._default import PREFERRED, default_model
from cmtool.workflows.load import open_model

ROOT = Path(__file__).parents[2]
LOGS = ROOT / "recipes" / "logs"
ALL = ["cifar10", "digits", "digits-teacher", "mnist"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMTOOL_OFFLINE", "1")
    return tmp_path


def described(name: str) -> tuple[Meta, Recipe]:
    file = shipped.path(name)
    return checkpoint.parse_config(checkpoint.read_header(file) or "", str(file))


# The files.


def test_four_models_are_shipped():
    assert shipped.names() == ALL
    assert sorted(PREFERRED) == [name for name in ALL if name != "digits-teacher"]


def test_they_are_30_megabytes_at_most():
    assert sum(shipped.path(name).stat().st_size for name in shipped.names()) <= 30e6


@pytest.mark.parametrize("name", shipped.names())
def test_weights_are_halves_and_the_origin_is_told(name: str):
    meta, recipe = described(name)
    sizes: Counter[torch.dtype] = Counter()
    for value in read_tensors(shipped.path(name)).values():
        sizes[value.dtype] += value.numel()
    assert sizes.keys() <= {torch.float16, torch.float32}  # What has one dimension stays whole.
    assert sizes[torch.float32] < 0.03 * sizes[torch.float16]
    assert meta.kind == ("diffusion" if name.endswith("-teacher") else "consistency")
    assert meta.step == recipe.train.steps
    assert meta.origin["command"] == f"python recipes/ship.py {name}"
    assert meta.origin["data"]["name"] == recipe.data.name == name.removesuffix("-teacher")
    assert f"data '{recipe.data.name}'" in meta.origin["licences"]
    text = checkpoint.read_header(shipped.path(name)) or ""
    assert not any(f'"{root}' in text for root in ("/tmp", "/home", "/root", "/work", "/Users"))


@pytest.mark.parametrize("name", shipped.names())
def test_a_file_is_what_its_recipe_makes(name: str):
    """`ship.py` would train the same again: losses, data and settings are the recipe's of today."""
    meta, recipe = described(name)
    today = recipes.load(meta.origin["recipe"])
    machine = ("precision", "device", "compile", "log_every", "sample_every", "save_every")
    same = {key: getattr(recipe.train, key) for key in (*machine, "keep_last", "tracker")}
    assert recipe.loss == today.loss
    assert recipe.solver == today.solver
    assert replace(recipe.data, conditional=today.data.conditional) == today.data
    assert recipe.train == replace(today.train, **same)
    if today.network is not None:
        assert recipe.network == today.network


@pytest.mark.parametrize("name", shipped.names())
def test_its_training_is_logged(name: str):
    meta, recipe = described(name)
    kind = meta.origin["recipe"].split("/")[1]
    logs = sorted(LOGS.glob(f"{recipe.data.name}-{kind}*.jsonl"))
    lines = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    assert lines[-1]["index"] == meta.step
    assert lines[-1]["images"] == meta.step * recipe.train.batch_size


def test_colours_are_edited_without_a_class():
    """`edit` asks for no class: the model was trained on pictures of none too."""
    meta, recipe = described("cifar10")
    assert len(meta.classes) == 10
    assert 0.1 <= recipe.data.label_dropout <= 0.2


@pytest.mark.parametrize(("steps", "bound"), [(1, 0.38), (2, 0.37)])
def test_digits_keep_their_distance(steps: int, bound: float):
    """FD-pixel to the held-out digits; the teacher has 0.33, the real digits 0.30."""
    held_out = open_data("digits", split="test")
    reference = Moments.of(pixel_features(held_out.images(np.arange(len(held_out)))))
    drawn = images.to_uint8(api.sample("shipped/digits", 1000, steps=steps)).numpy()
    assert frechet_distance(Moments.of(pixel_features(drawn)), reference) < bound


# The names.


def test_a_name_is_a_model(here: Path):
    model = open_model("shipped/digits")
    assert (model.source, model.denoiser.kind) == ("shipped/digits", "consistency")
    assert isinstance(api.load(Path("shipped/digits")), Denoiser)
    assert api.sample("shipped/digits", 2).shape == (2, 1, 8, 8)
    assert not hub.is_name("shipped/digits")


def test_a_wrong_name_is_answered_with_the_right_one(here: Path):
    with pytest.raises(CheckpointError, match=r"\(did you mean 'digits'\?\)") as found:
        open_model("shipped/digts")
    assert "shipped/digits-teacher" in (found.value.hint or "")
    with pytest.raises(CheckpointError, match=r"no model 'digits' \(did you mean 'shipped/digits'"):
        open_model("digits")


def test_a_path_that_is_there_wins(here: Path):
    Path("shipped").mkdir()
    shutil.copy(shipped.path("digits-teacher"), "shipped/digits")
    assert open_model("shipped/digits").denoiser.kind == "diffusion"


def test_names_go_wherever_a_model_is_taken(here: Path):
    Path("small.toml").write_text(SMALL.replace('name = "dsm"', 'name = "cd"'))
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save("grey.png")
    box = ("edit", "inpaint", "--box", "0,0,4,4")
    few = ("--set", "data.conditional=true", "--max-steps", "1", "--batch-size", "4")
    network = [f"network.{key}" for key in ("width=96", "blocks=4", "patch=1")]
    network += ["denoiser.sigma_data=0.75", "loss.name=ict"]
    setting = [word for key in network for word in ("--set", key)]
    for words in (
        ("sample", "shipped/digits", "--n", "2", "--out", "a.png"),
        ("sample", "--compare", "shipped/digits@1,shipped/digits-teacher@3", "--out", "c.png"),
        (*box, "grey.png", "--label", "3", "--steps", "2", "--model", "shipped/digits"),
        ("eval", "fd", "--model", "shipped/digits@2", "--features", "pixel", "--n", "70"),
        ("eval", "consistency", "--model", "shipped/digits", "--n", "8"),
        ("export", "safetensors", "shipped/digits"),
        ("distill", "small.toml", "--teacher", "shipped/digits-teacher", "--out", "cd", *few),
        ("train", "small.toml", "--init", "shipped/digits", "--out", "t", *few, *setting),
        ("info", "shipped/digits"),
    ):
        done = cmtool(*words)
        assert done.exit_code == 0, (words, done.stderr)
    assert open_model("cd").meta.origin["teacher"] == "shipped/digits-teacher"
    exported = open_model("exports/digits.safetensors")
    assert exported.meta.origin["exported"]["model"] == "shipped/digits"
    assert exported.meta.origin["recipe"] == "digits/cd"
    report = json.loads(next(Path("evals").glob("*fd*.json")).read_text())
    assert report["reference"]["name"] == "digits"
    told = cmtool("info", "shipped/digits").stdout
    assert "single file of cmtool, which comes with it" in told
    assert "python recipes/ship.py digits" in told
    assert "data 'digits': CC BY 4.0" in told


# Where none is named.


def tiny(path: Path, channels: int, *, dropout: float = 0.0, classes: int = 0) -> None:
    """A small consistency model of 8x8 images as one file of halves."""
    text = SMALL.replace('"dsm"', '"ict"') + '[denoiser]\nprecond = "consistency"\n'
    recipe = recipes.parse(text, "a test")
    recipe = replace(recipe, data=replace(recipe.data, label_dropout=dropout))
    meta = Meta("consistency", (channels, 8, 8), tuple(map(str, range(classes))), step=2)
    torch.manual_seed(0)
    state = checkpoint.build(recipe, meta).network.state_dict()
    halves = {key: value.half() for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_file(path, meta, recipe, halves)


@pytest.fixture
def folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Other models in place of the shipped ones: cifar10 as it will be, mnist, digits."""
    monkeypatch.setattr(shipped, "FOLDER", here / "package")
    tiny(here / "package/cifar10.safetensors", 3, dropout=0.15, classes=3)
    tiny(here / "package/mnist.safetensors", 1, dropout=0.15, classes=3)
    tiny(here / "package/digits.safetensors", 1, classes=3)
    return here / "package"


def chosen(*words: str) -> str:
    done = cmtool(*words, "--overwrite")
    assert done.exit_code == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "consistency model " in line)
    return line.split(":")[0].removeprefix("consistency model ")


def test_the_fitting_one_is_taken(folder: Path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save("rgb.png")
    Image.fromarray(noise[..., 0]).save("grey.png")
    few = ("--steps", "2")
    inpaint = ("edit", "inpaint", "--box", "0,0,4,4", *few)
    assert chosen("sample", "--n", "4", "--out", "grid.png") == "shipped/cifar10"
    done = cmtool("sample", "--compare", "@1,@2", "--n", "2", "--out", "rows.png")
    assert done.stderr.count("no model is given: taking shipped/cifar10") == 1
    assert chosen("export", "safetensors").startswith("shipped/cifar10")
    assert Path("exports/cifar10.safetensors").is_file()
    assert chosen(*inpaint, "rgb.png") == "shipped/cifar10"
    assert chosen(*inpaint, "grey.png") == "shipped/mnist"
    done = cmtool(*inpaint, "grey.png", "--overwrite")
    assert done.stderr.startswith(
        "passed over shipped/cifar10: its images have 3 channel(s), not 1\n"
        "no model is given: taking shipped/mnist, which comes with cmtool\n"
        "it knows digits alone; for a photograph --model shipped/cifar10\n"
    )
    assert chosen("edit", "colorize", "grey.png", *few) == "shipped/cifar10"
    (folder / "mnist.safetensors").unlink()
    assert chosen(*inpaint, "grey.png") == "shipped/cifar10"  # digits would ask for a class
    assert chosen(*inpaint, "grey.png", "--label", "2") == "shipped/digits"
    (folder / "cifar10.safetensors").unlink()
    assert chosen("sample", "--n", "4", "--out", "grid.png") == "shipped/digits"
    done = cmtool(*inpaint, "rgb.png", "--overwrite")
    assert done.exit_code == 2
    assert "passed over shipped/digits: its images have 1 channel(s), not 3" in done.stderr
    assert "neither 'runs' nor cmtool itself has a finished consistency model" in done.stderr


def test_a_run_that_suits_comes_first_and_what_is_passed_over_is_told(folder: Path):
    def run(name: str, age: int, channels: int, **more: float) -> None:
        tiny(Path("a.safetensors"), channels, **more)  # type: ignore[arg-type]
        opened = open_model("a.safetensors")
        weights = opened.denoiser.network.state_dict()
        meta, recipe = opened.meta, opened.recipe
        checkpoint.save(Path("runs", name), meta, recipe, {"ema-0.99": weights}, {}, keep_last=1)
        os.utime(Path("runs", name, "latest"), (1e9 - age, 1e9 - age))

    run("colours", 2, 3)
    run("grey", 1, 1)
    run("classes", 0, 1, classes=3)
    told: list[str] = []
    assert default_model(told.append) == Path("runs/classes")
    assert told == ["no model is given: taking runs/classes"]
    told.clear()
    assert default_model(told.append, channels=(1, 3), labelled=False) == Path("runs/grey")
    reason = "it knows only pictures of a class, and no --label is given"
    taking = "no model is given: taking runs/"
    assert told == [f"passed over runs/classes: {reason}", f"{taking}grey"]
    told.clear()
    assert default_model(told.append, channels=(3,), labelled=False) == Path("runs/colours")
    assert told == [
        "passed over runs/classes: its images have 1 channel(s), not 3",
        "passed over runs/grey: its images have 1 channel(s), not 3",
        f"{taking}colours",
    ]
    told.clear()
    shutil.rmtree("runs/colours")
    assert default_model(told.append, channels=(3,)) == Path("shipped/cifar10")
    assert told[-1] == "no model is given: taking shipped/cifar10, which comes with cmtool"
    assert len(told) == 3


def test_an_edit_without_a_class_uses_the_null_class(folder: Path):
    model = api.load("shipped/cifar10")
    assert model.null_class
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    seen = []
    handle = model.network.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    api.edit(model, "inpaint", picture, mask=mask, steps=2)
    assert all(label is None or bool((label == -1).all()) for label in seen)
    seen.clear()
    api.sample(model, 8)
    handle.remove()
    assert sorted(set(torch.cat(seen).tolist())) == [0, 1, 2]


def test_the_first_command_is_light(here: Path):
    """Offline, in an empty folder; what torch loads only to compile is never loaded."""
    words = ["sample", "shipped/digits", "--n", "4", "--out", "grid.png"]
    heavy = {"torch._dynamo", "torch._inductor", "sympy", "accelerate", "torchvision", "lpips"}
    code = f"""
import sys
from cmtool.cli import main
sys.argv[1:] = {words}
try:
    main()
except SystemExit as done:
    assert done.code in (0, None), done.code
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CMTOOL_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert Path("grid.png").is_file()


# Making and packing.


def test_a_run_is_packed_by_its_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """`ship.py NAME --from RUN`: the file has the run's weights, rounded, and its origin."""
    Path("small.toml").write_text(SMALL)
    assert cmtool("train", "small.toml", "--out", "run").exit_code == 0
    ship = module_at(ROOT / "recipes" / "ship.py")
    monkeypatch.setattr(ship, "_cmtool", lambda *words: must(*map(str, words)))
    ship.main("digits-teacher", Path("run"))
    made, run = open_model("shipped/digits-teacher"), open_model("run")
    assert made.meta.origin["recipe"] == "digits/dsm"
    for key, value in run.denoiser.network.state_dict().items():
        packed = made.denoiser.network.state_dict()[key]
        assert bool(((packed == value) | (packed == value.half())).all()), key


@pytest.mark.slow
def test_the_wheel_carries_them(tmp_path: Path):
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    pytest.importorskip("hatchling", reason="the wheel is built without fetching its builder")
    subprocess.run([*pip, str(ROOT), "-w", str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in shipped.names():
            content = archive.read(f"cmtool/shipped/{name}.safetensors")
            assert content == shipped.path(name).read_bytes()
