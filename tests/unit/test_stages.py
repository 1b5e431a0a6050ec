"""Progressive distillation through the trainer: stages, the new teacher, and what is sampled."""

import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from two_processes import TORCHRUN, succeed

from cmtool import checkpoint
from cmtool.checkpoint import Checkpoint
from cmtool.errors import RecipeError
from cmtool.rng import SeedRng
from cmtool.solvers.euler import Euler
from cmtool.workflows import distill, train
from cmtool.workflows import fit as fitting
from cmtool.workflows._draw import plan_for
from cmtool.workflows.fit import Job, Listeners, fit
from cmtool.workflows.info import describe
from cmtool.workflows.load import load
from cmtool.workflows.sample import Request, sample, sample_to_files

TEACHER = """
[network]
name = "tiny"
width = 16
dropout = 0.1

[loss]
name = "dsm"

[data]
name = "digits"
conditional = true
label_dropout = 0.1

[train]
steps = 2
batch_size = 8
"""
RECIPE = """
[loss]
name = "pd"
intervals = 4

[teacher]
guidance = 2.0

[data]
name = "digits"
conditional = true

[train]
steps = 20
batch_size = 8
lr = 1e-3
lr_decay = "linear"
ema = [0.9]
log_every = 1
sample_every = 1000
save_every = 10
keep_last = 9
"""
# Steps 0 .. 3 halve 8 intervals to 4, steps 4 .. 11 to 2, steps 12 .. 19 to 1.
NEW = (4, 12)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "r.toml").write_text(TEACHER)
    fit(
        train.plan(Job(str(folder / "r.toml"), out=folder / "run"), None, {}, Listeners()),
        Listeners(),
    )
    return folder / "run"


@pytest.fixture
def prepared(tmp_path, teacher):
    (tmp_path / "r.toml").write_text(RECIPE)

    def make(*overrides, out="run", **fields):
        job = Job(str(tmp_path / "r.toml"), overrides=overrides, out=tmp_path / out, **fields)
        return distill.plan(job, teacher, {}, Listeners())

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory, teacher):
    """A run with a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("pd")
    (folder / "r.toml").write_text(RECIPE)
    job = Job(str(folder / "r.toml"), overrides=("train.save_every=1", "train.keep_last=99"))
    fit(distill.plan(replace(job, out=folder / "run"), teacher, {}, Listeners()), Listeners())
    return folder / "run"


def trainer(ready):
    return fitting._trainer(ready, fitting._accelerator(ready))


def at(run, step):
    return Checkpoint.open(run / f"step-{step:08d}")


def weights(saved):
    return {name: saved.weights(name) for name in saved.meta.weights}


def equal(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("stop", [10, 12, 13])
def test_twenty_steps_equal_a_resumed_run_bit_for_bit(prepared, tmp_path, finished, stop):
    """Stopped before, at and after a change of the stage, which is at step 12."""
    first = trainer(prepared(f"train.save_every={stop}", out="broken"))
    for _ in islice(first.steps(), stop + 2):
        pass
    assert checkpoint.latest(tmp_path / "broken").name == f"step-{stop:08d}"
    again = prepared(f"train.save_every={stop}", out="broken", resume=True)
    fit(again, Listeners())
    straight, broken = weights(at(finished, 20)), weights(at(tmp_path / "broken", 20))
    assert set(straight) == {"student", "teacher", "ema-0.9"} == set(broken)
    assert all(equal(straight[name], broken[name]) for name in straight)


def test_the_student_becomes_the_teacher_where_a_stage_starts(finished):
    assert "teacher" not in at(finished, 4).meta.weights
    for new, until in zip(NEW, (12, 20), strict=True):
        expected = at(finished, new).weights("student")
        for step in (new + 1, until):
            assert equal(at(finished, step).weights("teacher"), expected)
    assert not equal(at(finished, 12).weights("student"), at(finished, 4).weights("student"))


def test_optimizer_and_averages_start_anew(finished):
    for step in range(1, 21):
        age = step - max(first for first in (0, *NEW) if first < step)
        states = at(finished, step).resume_state(torch.device("cpu"))["optimizer"]["state"]
        assert {int(state["step"]) for state in states.values()} == {age}
    for new in NEW:
        before, after = (at(finished, step).weights("student") for step in (new, new + 1))
        average = at(finished, new + 1).weights("ema-0.9")
        for key, value in average.items():
            # A young average keeps 1/10 of its start, which is the student at the change.
            torch.testing.assert_close(value, before[key].float().lerp(after[key].float(), 0.9))


def test_the_rate_falls_to_zero_in_every_stage(finished):
    lines = (finished / "log.jsonl").read_text().splitlines()
    rates = [json.loads(line)["lr"] for line in lines]
    expected = [1e-3 * (1 - k / n) for n in (4, 8, 8) for k in range(n)]
    assert rates == pytest.approx(expected)
    assert [json.loads(line)["N"] for line in lines] == [4] * 4 + [2] * 8 + [1] * 8


def test_guidance_is_distilled_once(prepared):
    """The student of the first stage has learned what guidance does."""
    run = trainer(prepared())
    guidances = []
    for _ in run.steps():
        guidances.append(run.roles.teacher.guidance)
    assert guidances == [2.0] * 4 + [1.0] * 16
    assert run.accelerator.unwrap_model(run._objective)._fixed[0] is run.roles
    assert not any(p.requires_grad for p in run.roles.teacher.denoiser.parameters())
    assert not run.roles.teacher.denoiser.training


def test_another_number_of_steps_must_not_move_the_stages(prepared, tmp_path):
    for _ in islice(trainer(prepared()).steps(), 10):
        pass
    with pytest.raises(RecipeError, match="stage of step 10 would begin at step 10, not 4"):
        fit(prepared("train.steps=50", resume=True), Listeners())
    fixed = ("loss.stage_steps=4", "train.steps=10")
    fit(prepared(*fixed, out="fixed"), Listeners())
    fit(prepared("loss.stage_steps=4", "train.steps=16", out="fixed", resume=True), Listeners())
    saved = Checkpoint.open(tmp_path / "fixed")
    assert (saved.meta.step, len(saved.meta.grid)) == (16, 2)


@pytest.mark.parametrize(("step", "n"), [(1, 4), (4, 4), (5, 2), (12, 2), (13, 1), (20, 1)])
def test_a_checkpoint_knows_the_levels_it_was_trained_for(finished, step, n):
    saved = at(finished, step)
    assert (saved.meta.kind, saved.recipe.denoiser.precond) == ("diffusion", "edm")
    model = saved.denoiser()
    expected = model.schedule.grid(n + 1)
    torch.testing.assert_close(torch.tensor(model.grid).double(), expected, rtol=1e-6, atol=0)
    plan = plan_for(model)
    assert (plan.nfe, len(plan.solvers), plan.own) == (n, n, True)
    assert {type(solver) for solver in plan.solvers} == {Euler}
    assert plan_for(model, n).own
    assert not plan_for(model, 35).own
    assert not plan_for(model, solver="heun").own


def test_samples_are_euler_steps_on_the_models_own_levels(finished, tmp_path):
    model, seen = at(finished, 12).denoiser(), []
    note = lambda module, args, out: seen.append(float(args[1][0]))  # noqa: E731
    hook = model.register_forward_hook(note)
    drawn = sample(model, 3, seed=5, label=1)
    hook.remove()
    assert seen == pytest.approx(model.grid[:2])
    rng = SeedRng(5, range(3))
    x, labels = rng.randn((1, 8, 8)).double() * 80, torch.ones(3, dtype=torch.int64)
    for t, r in zip(model.grid, model.grid[1:], strict=False):
        x = x + (r - t) * (x - model(x, t, labels)) / t
    torch.testing.assert_close(drawn, x.float().clamp(-1, 1), rtol=1e-5, atol=1e-5)


def test_sample_says_so_and_a_single_file_keeps_it(finished, tmp_path):
    said, saved = [], at(finished, 12)
    sample_to_files(saved.path, Request(n=2, out=tmp_path / "a.npz"), say=said.append)
    assert any(
        "NFE 2 (2 euler steps, the model's own noise levels 80, 2.5" in line for line in said
    )
    assert "2 Euler steps" in describe(str(saved.path), {})["made for"]
    file = tmp_path / "model.safetensors"
    checkpoint.write_file(file, saved.meta, saved.recipe, saved.weights("ema-0.9"))
    assert load(file, device="cpu").grid == saved.meta.grid
    torch.testing.assert_close(sample(file, 2), sample(saved.path, 2))


TWO = """
import sys
from pathlib import Path
from cmtool.workflows.distill import plan
from cmtool.workflows.fit import Job, Listeners, fit
recipe, teacher, out = sys.argv[1:]
job = Job(recipe, overrides=("train.steps=10",), out=Path(out))
fit(plan(job, Path(teacher), {}, Listeners()), Listeners())
"""


@pytest.mark.slow
@pytest.mark.multi
def test_two_processes_change_stages_as_one_does(tmp_path, teacher):
    (tmp_path / "two.py").write_text(TWO)
    (tmp_path / "r.toml").write_text(RECIPE + '[network]\nname = "tiny"\nwidth = 16\n')
    run = [str(tmp_path / "two.py"), str(tmp_path / "r.toml"), str(teacher)]
    for start, out in (([sys.executable], "one"), (TORCHRUN, "both")):
        succeed([*start, *run, str(tmp_path / out)])
    one, both = (weights(Checkpoint.open(Path(tmp_path / out))) for out in ("one", "both"))
    assert set(one) == set(both) == {"student", "teacher", "ema-0.9"}
    for name in one:
        for key, value in one[name].items():
            torch.testing.assert_close(both[name][key], value, rtol=1e-5, atol=1e-6)
