"""`cmtool eval`: figures equal those of the samples; a search goes on where it was, and its levels
can be kept."""

import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_world import cmtool
from PIL import Image

import cmtool as api
from cmtool import checkpoint, images
from cmtool.data.catalog import open_data
from cmtool.metrics.frechet import Moments, frechet_distance, pixel_features
from cmtool.workflows import search as workflow


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the models cm and dm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path / "cache"))
    for name in ("cm", "dm", "classes"):
        shutil.copytree(world / name, name)
    return tmp_path


def search(*words: str, code: int = 0):
    done = cmtool("eval", "search", "--model", "cm", "--n", "20", "--out", "o", *words)
    assert done.exit_code == code, done.stderr
    return done


def report(out: str = "o") -> dict:
    return json.loads(Path(out, "search.json").read_text())


def asked(out: str = "o") -> list[tuple[float, ...]]:
    return [tuple(row["times"]) for row in report(out)["evaluations"]]


class Valley(workflow.Figure):
    """A metric without images: the squared distance of the last level to 0.5, in ln(level)."""

    def begin(self) -> None:
        pass

    def __call__(self, plan) -> float:
        return math.log(float(plan.times[-1]) / 0.5) ** 2


# Figures.


@pytest.mark.parametrize(("model", "steps"), [("cm", 2), ("dm", 3), ("classes", 2)])
def test_the_distance_is_that_of_the_samples(here: Path, model: str, steps: int):
    words = ("eval", "fd", "--model", model, "--steps", str(steps), "--seed", "3", "--n", "50")
    done = cmtool(*words)
    assert done.exit_code == 0, done.stderr
    drawn = images.to_uint8(api.sample(model, 50, steps=steps, seed=3)).numpy()
    data = open_data("digits")
    expected = frechet_distance(
        Moments.of(pixel_features(drawn)),
        Moments.of(pixel_features(data.images(np.arange(len(data))))),
    )
    content = json.loads(Path(f"evals/{model}-fd.json").read_text())
    (row,) = content["rows"]
    assert row["figures"]["FD-pixel"]["value"] == pytest.approx(expected, rel=1e-6)
    assert (row["nfe"], row["n"], row["seed"]) == (steps, 50, 3)
    assert "against 1,400 images of digits" in done.stdout
    assert "note: n = 50 is below 50,000" in done.stdout
    os.rename("cache", "old")
    assert cmtool(*words, "--batch-size", "7").stdout == done.stdout


def test_another_reference(here: Path):
    for i in range(4):
        path = Path("colour", f"{i}.png")
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(path)
    own, other = (
        cmtool("eval", "fd", "--model", "cm", "--n", "20", "--json", *more).stdout
        for more in ((), ("--data", "colour"))
    )
    own, other = json.loads(own), json.loads(other)
    assert own["rows"][0]["figures"] != other["rows"][0]["figures"]
    assert (other["reference"]["name"], other["reference"]["images"]) == ("colour", 4)


# The search.


def test_a_search_leaves_a_table_a_report_and_a_picture(here: Path):
    done = search("--tol", "0.5")
    found = report()
    assert done.stdout.splitlines()[-2:] == ["o/search.json", "o/search.png"]
    assert sorted(p.name for p in Path("o").iterdir()) == ["search.json", "search.png"]
    with Image.open("o/search.png") as picture:
        assert picture.size == (640, 400)
    values = {tuple(row["times"]): row["value"] for row in found["evaluations"]}
    result = found["result"]
    assert result["value"] == min(values.values()) == values[tuple(result["times"])]
    assert result["used"] == len(values) == len(set(asked()))
    assert f"{len(values)} new evaluations" in done.stderr
    assert len(values) <= 1 + 2 + math.ceil(math.log(math.log(80 / 0.002) / 0.5) / math.log(1.618))
    assert found["settings"]["n"] == 20
    assert found["settings"]["reference"]["name"] == "digits"
    # Every evaluation is what `eval fd` says of those levels: the same seeds.
    times = asked()[2]
    typed = ",".join(map(repr, times))
    again = cmtool("eval", "fd", "--model", "cm", "--n", "20", "--times", typed, "--json").stdout
    figure = json.loads(again)["rows"][0]["figures"]["FD-pixel"]
    assert figure["value"] == pytest.approx(values[times], rel=1e-6)


@pytest.mark.parametrize(
    ("metric", "command", "figure"),
    [("kid-pixel", ("kid", "--features", "pixel"), "KID-pixel"), ("fd-NET", ("fd",), "FD-net")],
)
def test_a_search_makes_any_figure_small(here: Path, metric: str, command: tuple, figure: str):
    if metric == "fd-NET":
        with pytest.warns(FutureWarning):
            torch.jit.script(torch.nn.Flatten()).save("net.ts")
        told = hashlib.sha256(Path("net.ts").read_bytes()).hexdigest()
        Path("net.toml").write_text(f'sha256 = "{told}"\ndim = 192\nsize = 8\nresize = "none"\n')
        metric, command = "fd-net.ts", (*command, "--features", "net.ts")
    done = search("--metric", metric, "--tol", "1", "--protocol", "cm-cifar10")
    found = report()
    assert f"  {metric}\n" in done.stdout
    assert found["settings"]["protocol"]["name"] == "cm-cifar10"
    assert not list(Path("cache/features").glob("*/00000000-00000020.done"))
    times = asked()[1]
    typed = ("--times", ",".join(map(repr, times)), "--protocol", "cm-cifar10", "--json")
    again = cmtool("eval", *command, "--model", "cm", "--n", "20", *typed)
    assert again.exit_code == 0, again.stderr
    value = json.loads(again.stdout)["rows"][0]["figures"][figure]["value"]
    assert value == found["evaluations"][1]["value"]
    other = search("--metric", metric, "--tol", "1", "--protocol", "clean", code=2)
    assert "holds a search with another protocol" in other.stderr


def test_a_search_tells_what_was_done_to_its_reference(here: Path):
    for i in range(4):
        Path("colour").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(f"colour/{i}.png")
    done = search("--data", "colour", "--budget", "1")
    assert "note: the reference was cut and resized to 8x8" in done.stderr
    assert "note: the reference's colours were made grey" in done.stderr


def test_a_search_is_refused_levels_of_two_numbers(here: Path):
    done = search("--model", "cm@3", code=2)
    assert "error: 'cm@3' and --steps 2 disagree" in done.stderr


def test_a_search_finds_the_valley(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workflow, "Figure", Valley)
    search("--tol", "0.01")
    first, second = report()["result"]["times"]
    assert first == 80
    assert abs(math.log(second / 0.5)) <= 0.01 + 1e-3


@pytest.mark.parametrize("file", [None, "one.safetensors", "one.pt"])
def test_saved_levels_are_those_of_steps_from_then_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, file: str | None
):
    if file:
        opened = checkpoint.Checkpoint.open(Path("cm"))
        weights = opened.weights(opened.choose("ema"))
        shutil.rmtree("cm")
        checkpoint.write_file(Path(file), opened.meta, opened.recipe, weights)
    model = file or "cm"
    before = cmtool("sample", model, "--steps", "2", "--n", "2", "--out", "a.npz")
    assert "noise levels 80, 0.8)" in before.stderr
    monkeypatch.setattr(workflow, "Figure", Valley)
    done = search("--model", model, "--save")
    level = report()["result"]["times"][1]
    assert level != pytest.approx(0.8)
    after = cmtool("sample", model, "--steps", "2", "--n", "2", "--out", "b.npz")
    assert f"stored noise levels 80, {level:g})" in after.stderr
    typed = cmtool("sample", model, "--times", f"80,{level}", "--n", "2", "--out", "c.npz")
    assert typed.exit_code == 0
    a, b, c = (np.load(f"{name}.npz")["arr_0"] for name in "abc")
    assert (b == c).all()
    assert (a != b).any()
    # The weights are as they were, so the search is known; its default is now what was saved.
    assert model in done.stdout.splitlines()[-1]
    again = search("--model", model)
    assert "0 new evaluations" in again.stderr
    assert report()["result"]["default"] == [80, level]


def test_one_step_is_as_it_was_after_saving(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workflow, "Figure", Valley)
    before = api.sample("cm", 2)
    search("--save")
    assert (api.sample("cm", 2) == before).all()


def test_a_budget_ends_a_search_and_the_next_goes_on(here: Path):
    whole = search("--out", "whole", "--steps", "3", "--tol", "0.7")
    expected = asked("whole")
    for used in (4, 8):
        done = search("--steps", "3", "--tol", "0.7", "--budget", "4")
        assert "the budget was spent" in done.stderr
        assert "4 new evaluations" in done.stderr
        assert asked() == expected[:used]
    done = search("--steps", "3", "--tol", "0.7")
    assert "goes on from 8 evaluations" in done.stderr
    assert asked() == expected
    assert report()["evaluations"] == report("whole")["evaluations"]
    assert report()["result"]["times"] == report("whole")["result"]["times"]
    assert done.stdout.replace("o/", "whole/") == whole.stdout


def test_one_evaluation_is_the_default(here: Path):
    done = search("--budget", "1")
    assert "the default, and the best" in done.stdout
    assert report()["result"]["times"] == report()["result"]["default"]


def test_two_levels_serve_a_search_for_three(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workflow, "Figure", Valley)
    search()
    two = asked()
    search("--steps", "3")
    assert asked()[: len(two)] == two
    assert {len(times) for times in asked()[len(two) :]} == {3}


def test_ctrl_c_keeps_the_evaluations(here: Path, monkeypatch: pytest.MonkeyPatch):
    class Stops(Valley):
        def __call__(self, plan) -> float:
            if len(asked()) == 3:
                raise KeyboardInterrupt
            return super().__call__(plan)

    monkeypatch.setattr(workflow, "Figure", Stops)
    done = search(code=130)
    assert done.stdout == ""
    assert done.stderr.endswith(
        "error: stopped; 3 evaluations are kept in o\nhint: the same command goes on\n"
    )
    monkeypatch.setattr(workflow, "Figure", Valley)
    assert "goes on from 3 evaluations" in search().stderr


def test_a_default_that_is_better_stays(here: Path, monkeypatch: pytest.MonkeyPatch):
    class Best(Valley):
        def __call__(self, plan) -> float:
            at_default = abs(float(plan.times[-1]) - 0.8) < 1e-9
            return -1.0 if at_default else super().__call__(plan)

    monkeypatch.setattr(workflow, "Figure", Best)
    done = search()
    assert report()["result"]["times"] == pytest.approx([80, 0.8])
    assert "the default is at least as good as what was found" in done.stderr


def test_no_room_for_a_third_level(here: Path, monkeypatch: pytest.MonkeyPatch):
    class Falls(Valley):
        def __call__(self, plan) -> float:
            return float(plan.times[-1]) + len(plan.times)

    monkeypatch.setattr(workflow, "Figure", Falls)
    done = search("--steps", "3")
    assert "no room for a level below 0.002" in done.stderr
    assert report()["result"]["found"] == [80, 0.002]
    assert len(report()["result"]["times"]) == 3


@pytest.mark.parametrize("words", [("--n", "21"), ("--seed", "1"), ("--weights", "student")])
def test_a_search_of_something_else_is_not_mixed_in(
    here: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, str]
):
    monkeypatch.setattr(workflow, "Figure", Valley)
    search("--budget", "2")
    before = asked()
    done = search(*words, code=2)
    assert done.stderr.splitlines()[-2].startswith(
        f"error: 'o/search.json' holds a search with another {words[0].strip('-')}: "
    )
    assert asked() == before
    search(*words, "--overwrite", "--budget", "1")
    assert len(asked()) == 1


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{}", '{"settings": {}, "evaluations": [{"times": [1], "value": NaN}]}', "\x00"],
)
def test_a_damaged_report_is_told(here: Path, text: str):
    Path("o").mkdir()
    Path("o/search.json").write_text(text)
    done = search(code=2)
    assert "error: 'o/search.json' is damaged: " in done.stderr
    assert Path("o/search.json").read_text() == text


def test_what_cannot_hold_levels_is_told_first(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "replace", full)
    done = search("--save", code=2)
    assert "error: cannot write cm/step-00000002: " in done.stderr
    assert not Path("o").exists()
    done = search(code=2)
    assert "error: cannot write 'o/search.json': no space left on device" in done.stderr


def full(*_: object) -> None:
    raise OSError(28, os.strerror(28))
