"""Every digits recipe runs as it is: a few steps always, 300 steps in bf16 when asked (`slow`)."""

import json
import math

import pytest

import cmtool
from cmtool import registry
from cmtool.errors import RecipeError
from cmtool.workflows import distill, train
from cmtool.workflows.fit import Job, Listeners, fit

SMALL = ("network.width=32", "network.blocks=1")
METHODS = [name for name in registry.names("losses") if name != "dsm"]


def run(method, folder, *overrides):
    """Losses of a run of digits/METHOD that starts from the teacher in `folder`."""
    settings = ("train.log_every=1", "train.sample_every=100000", *overrides)
    job = Job(f"digits/{method}", overrides=settings, out=folder / method, overwrite=True)
    if registry.load("losses", method).needs_teacher_model:
        fit(distill.plan(job, folder / "dsm", {}, Listeners()), Listeners())
    else:
        start = None if method == "dsm" else folder / "dsm"
        fit(train.plan(job, start, {}, Listeners()), Listeners())
    lines = (folder / method / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("digits")
    losses = run("dsm", place, *SMALL, "train.batch_size=32", "train.steps=200")
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    return place


@pytest.mark.parametrize("method", METHODS)
def test_a_few_steps(folder, method):
    small = () if registry.load("losses", method).needs_teacher_model else SMALL
    losses = run(method, folder, *small, "train.steps=10", "train.batch_size=32")
    assert len(losses) == 10
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("substeps", [1, 4])
def test_cd_with_a_multistep_solver(folder, substeps):
    """One step of the student comes nearer to the end of the teacher's path than one of the
    teacher's own."""
    settings = ("train.steps=100", "train.batch_size=32", "train.lr_warmup=5")
    run("cd", folder, *settings, "solver.name=dpmpp-2m", f"teacher.substeps={substeps}")
    end = cmtool.sample(folder / "dsm", 64, steps=35)
    far = cmtool.sample(folder / "dsm", 64, steps=1) - end
    near = cmtool.sample(folder / "cd", 64, steps=1) - end
    assert near.square().mean() < 0.8 * far.square().mean()


def test_cd_refuses_a_solver_that_adds_noise(folder):
    with pytest.raises(RecipeError, match="'churn' adds noise"):
        run("cd", folder, "solver.name=churn", "train.steps=2")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_300_steps_in_bf16(folder, method):
    small = () if registry.load("losses", method).needs_teacher_model else SMALL
    overrides = (*small, "train.steps=300", "train.batch_size=32", "train.precision=bf16")
    losses = run(method, folder, *overrides)
    assert len(losses) == 300
    assert all(map(math.isfinite, losses))
