"""Noise levels that a model carries: in its recipe, its checkpoint, its single file."""

import hashlib
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_world import SMALL_CD, cmtool, must

from cmtool import checkpoint, load
from cmtool import recipe as recipes
from cmtool.checkpoint import Checkpoint, Meta, store_times
from cmtool.errors import CheckpointError, RecipeError
from cmtool.foreign.base import published_times
from cmtool.schedules.karras import Karras
from cmtool.workflows._draw import edit_levels, plan_for

RECIPE = """
[network]
name = "tiny"
width = 16
multipliers = [1]
blocks = 1

[denoiser]
precond = "consistency"

[loss]
name = "ict"
"""
META = Meta("consistency", (1, 8, 8))
LEVELS = (80.0, 0.5)


def _parts(text=RECIPE):
    recipe = recipes.parse(text, "x.toml")
    torch.manual_seed(0)
    return recipe, checkpoint.build(recipe, META)


def _saved(kind, folder):
    """A model on the disk: where it is, and the file that describes it."""
    recipe, model = _parts()
    if kind.startswith("."):
        path = folder / f"model{kind}"
        checkpoint.write_file(path, META, recipe, model.state())
        return path, path
    run = folder / "run"
    step = checkpoint.save(run, META, recipe, {"ema-0.9": model.state()}, {}, keep_last=1)
    return (step if kind == "checkpoint" else run), step / "meta.json"


@pytest.mark.parametrize("kind", ["checkpoint", "run", ".safetensors", ".pt"])
def test_stored_levels_are_used_from_then_on(kind, tmp_path):
    path, _ = _saved(kind, tmp_path)
    before = load(path, device="cpu")
    assert before.times == {}
    store_times(path, {2: LEVELS})
    store_times(path, {3: (70.0, 2.0, 0.3)})
    after = load(path, device="cpu")
    assert after.times == {2: LEVELS, 3: (70.0, 2.0, 0.3)}
    plan = plan_for(after, 2)
    assert tuple(plan.times.tolist()) == LEVELS
    assert "the model's stored noise levels 80, 0.5" in str(plan)
    # All that is not stored is as it was.
    for steps in (1, 4):
        assert torch.equal(plan_for(after, steps).times, plan_for(before, steps).times)
        assert not plan_for(after, steps).stored
    assert plan_for(after, times=[80.0, 1.0]).times.tolist() == [80.0, 1.0]
    assert plan_for(after, 2, schedule="log-sigma").times.tolist() == pytest.approx([80.0, 0.8])
    assert all(torch.equal(after.state()[k], v) for k, v in before.state().items())


def test_storing_changes_no_file_of_weights(tmp_path):
    path, meta = _saved("run", tmp_path)
    files = [p for p in path.rglob("*") if p.is_file() and p != meta]
    before = [hashlib.sha256(p.read_bytes()).digest() for p in files]
    assert store_times(path, {2: LEVELS}) == meta.parent
    assert [hashlib.sha256(p.read_bytes()).digest() for p in files] == before
    assert sorted(p for p in path.rglob("*") if p.is_file()) == sorted([*files, meta])


@pytest.mark.parametrize("kind", ["run", ".safetensors", ".pt"])
def test_a_stop_while_storing_leaves_the_model_as_it_was(kind, tmp_path, monkeypatch):
    path, described = _saved(kind, tmp_path)
    before = described.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="no space left"):
        store_times(path, {2: LEVELS})
    assert described.read_bytes() == before


@pytest.mark.parametrize(
    "times", [{2: (80.0,)}, {2: (0.5, 80.0)}, {2: (80.0, 0.0)}, {2: (80.0, 80.0)}, {0: ()}]
)
def test_what_are_no_levels_is_not_stored(times, tmp_path):
    path, described = _saved("run", tmp_path)
    before = described.read_bytes()
    with pytest.raises(CheckpointError, match="times"):
        store_times(path, times)
    assert described.read_bytes() == before


@pytest.mark.parametrize("kind", ["run", ".safetensors", ".pt"])
@pytest.mark.parametrize("levels", [(81.0, 0.8), (80.0, 0.001)])
def test_levels_outside_the_models_range_are_not_stored_nor_read(kind, levels, tmp_path):
    path, described = _saved(kind, tmp_path)
    before = described.read_bytes()
    for use in (2, "inpaint"):
        with pytest.raises(CheckpointError, match=rf"for '{use}', .* leave .* 0\.002 \.\. 80"):
            store_times(path, {use: levels})
    assert described.read_bytes() == before
    with pytest.raises(CheckpointError, match="leave the schedule's"):
        checkpoint.build(_parts()[0], replace(META, times={2: levels}))


def test_only_models_of_ours_hold_levels(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "text.safetensors").write_text("nothing")
    for name in ("other.pt", "nosuch.pt", "nosuch"):
        with pytest.raises(CheckpointError, match="no model of this tool"):
            store_times(tmp_path / name, {2: LEVELS})
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        store_times(tmp_path / "text.safetensors", {2: LEVELS})


def test_a_description_without_levels_is_read():
    step = json.dumps({"format": 1, "kind": "consistency", "image_shape": [1, 8, 8]})
    fields = json.loads(step) | {"classes": [], "weights": [], "step": 0, "images": 0}
    assert Meta.parse(json.dumps(fields), "meta.json").times == {}
    with pytest.raises(CheckpointError, match="damaged"):
        Meta.parse(json.dumps(fields | {"times": {"2": [1, 80]}}), "meta.json")
    with pytest.raises(CheckpointError, match="damaged"):
        Meta.parse(json.dumps(fields | {"times": [80, 1]}), "meta.json")


def test_a_recipes_levels_are_the_models_until_others_are_stored(tmp_path):
    recipe, model = _parts(RECIPE + "[sampling]\ntimes = [80, 0.821]\n")
    assert model.times == {2: (80.0, 0.821)}
    assert Meta.of(model, 1, 1, {}).times == model.times
    other = checkpoint.build(recipe, replace(META, times={2: LEVELS}))
    assert other.times == {2: LEVELS}


@pytest.mark.parametrize("times", ["[81, 0.8]", "[80, 0.001]"])
def test_a_recipes_levels_must_be_the_schedules(times):
    with pytest.raises(CheckpointError, match=r"0\.002 \.\. 80"):
        _parts(f"{RECIPE}[sampling]\ntimes = {times}\n")


def test_a_diffusion_models_recipe_has_no_levels():
    text = RECIPE.replace("ict", "dsm").replace("consistency", "edm")
    with pytest.raises(CheckpointError, match="for consistency models"):
        _parts(f"{text}[sampling]\ntimes = [80]\n")


def test_training_goes_on_with_the_stored_levels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ict.toml").write_text(SMALL_CD.replace('"cd"', '"ict"') + RECIPE.split("[denoiser]")[0])
    must("train", "ict.toml", "--out", "run", "--set", "denoiser.precond=consistency")
    store_times(Path("run"), {2: LEVELS})
    must("train", "run/recipe.toml", "--out", "run", "--max-steps", "3", "--resume")
    found = Checkpoint.open(Path("run"))
    assert (found.meta.step, found.meta.times) == (3, {2: LEVELS})
    shutil.rmtree("run/samples")
    done = cmtool("sample", "run", "--steps", "2", "--n", "1", "--out", "o.png")
    assert "the model's stored noise levels 80, 0.5" in done.stderr


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("cd_imagenet64_l2.pt", {2: (80.0, 1.3824)}),
        ("diffusers-cd_bedroom256_lpips", {2: (80.0, 4.3656)}),
        ("cd_cat256_l2.pt", {}),
        ("edm_imagenet64_ema.pt", {}),
    ],
)
def test_published_models_have_their_published_second_step(name, times):
    assert published_times(name, Karras(0.002, 80.0)) == times
    # A model whose noise begins elsewhere is another one, whatever its name.
    assert published_times(name, Karras(0.002, 60.0)) == {}


@pytest.mark.parametrize("kind", ["run", ".safetensors"])
def test_an_editor_has_levels_under_its_name(kind, tmp_path):
    path, _ = _saved(kind, tmp_path)
    before = load(path, device="cpu")
    store_times(path, {"inpaint": (70.0, 2.0, 0.3), 10: tuple(range(10, 0, -1))})
    store_times(path, {2: LEVELS})
    model = load(path, device="cpu")
    assert list(model.times) == [2, 10, "inpaint"]
    assert edit_levels(model, "inpaint", 18).tolist() == [70.0, 2.0, 0.3]
    assert edit_levels(model, "inpaint", 18, steps=2).tolist() == pytest.approx([80.0, 0.8])
    assert edit_levels(model, "inpaint", 18, times=[5.0]).tolist() == [5.0]
    # Drawing does not take an editor's levels, nor one editor another's.
    assert torch.equal(plan_for(model, 3).times, plan_for(before, 3).times)
    assert torch.equal(edit_levels(model, "colorize", 3), plan_for(before, 3).times)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"steps": 2, "times": [1.0]}, "exclude each other"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"times": [1.0, 2.0]}, "--times must decrease"),
        ({"times": [90.0]}, "above the model's largest noise level 80"),
    ],
)
def test_editing_levels_that_cannot_be(wish, message):
    with pytest.raises(RecipeError, match=message):
        edit_levels(_parts()[1], "inpaint", 18, **wish)


@pytest.mark.parametrize("levels", [(), (1.0, 2.0), (80.0, math.nan), (-1.0,)])
def test_levels_of_an_editor_that_cannot_be(levels, tmp_path):
    path, _ = _saved(".safetensors", tmp_path)
    with pytest.raises(CheckpointError, match="times for 'inpaint'"):
        store_times(path, {"inpaint": levels})
