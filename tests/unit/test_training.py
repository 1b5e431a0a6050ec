"""The training loop: bit-exact resuming, averages, learning rates, splits, and what stops it."""

import json
import math
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn
from two_processes import TORCHRUN, succeed

from cmtool import checkpoint, recipe
from cmtool.checkpoint import Checkpoint
from cmtool.ema import Ema
from cmtool.errors import CheckpointError, CmtoolError, RecipeError, TrainingError
from cmtool.settings import TrainSettings
from cmtool.training import learning_rate
from cmtool.workflows import fit as fitting
from cmtool.workflows.fit import Job, Listeners, fit, make_trainer
from cmtool.workflows.train import plan

RECIPE = """
[network]
name = "tiny"
width = 16
dropout = 0.1

[loss]
name = "ct"
levels_max = 20

[denoiser]
precond = "consistency"

[data]
name = "digits"
flip = true

[train]
steps = 20
batch_size = 8
lr = 1e-3
lr_decay = "cosine"
lr_warmup = 5
ema = [0.9, 0.99]
log_every = 1
sample_every = 1000
save_every = 10
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)

    def make(*overrides, out="run", **fields):
        return Job(str(tmp_path / "r.toml"), overrides=overrides, out=tmp_path / out, **fields)

    return make


def prepared(job):
    return plan(job, None, {}, Listeners())


def trainer(job):
    ready = prepared(job)
    return make_trainer(ready)


def weights(out):
    saved = Checkpoint.open(out)
    return {name: saved.weights(name) for name in saved.meta.weights}


def equal(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[n][k], b[n][k]) for n in a for k in a[n])


def test_twenty_steps_equal_ten_resume_and_ten_bit_for_bit(job, tmp_path):
    """With dropout, flips, a target network, two averages and a learning rate that changes."""
    fit(prepared(job(out="straight")), Listeners())
    first = trainer(job(out="broken"))
    # What kill -9 leaves behind: a checkpoint at step 10, and five steps that are lost.
    for _ in islice(first.steps(), 15):
        pass
    assert checkpoint.latest(tmp_path / "broken").name == "step-00000010"
    fit(prepared(job(out="broken", resume=True)), Listeners())
    straight, broken = weights(tmp_path / "straight"), weights(tmp_path / "broken")
    assert set(straight) == {"student", "target", "ema-0.9", "ema-0.99"}
    assert equal(straight, broken)
    lines = (tmp_path / "straight" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(1, 21))


def test_a_finished_run_has_nothing_to_do(job, tmp_path):
    fit(prepared(job()), Listeners())
    before, said = weights(tmp_path / "run"), []
    report = fit(prepared(job(resume=True)), Listeners(said.append))
    assert report.steps == 20
    assert any("nothing to do" in line for line in said)
    assert equal(before, weights(tmp_path / "run"))


def test_resuming_with_another_recipe_is_refused_with_the_difference(job):
    fit(prepared(job("train.steps=2")), Listeners())
    with pytest.raises(RecipeError, match=r"another recipe: train.lr = 0.001 -> 0.5"):
        fit(prepared(job("train.lr=0.5", "train.steps=2", resume=True)), Listeners())


def test_another_loss_shows_as_differences_by_key(job):
    fit(prepared(job("train.steps=1")), Listeners())
    with pytest.raises(RecipeError, match=r"loss.decay = 0.9 -> 0.5; loss.levels_max = 20 -> 30"):
        prepared(job("train.steps=1", "loss.levels_max=30", "loss.decay=0.5", resume=True))


def test_tensorboard_gets_the_curves(job, tmp_path):
    pytest.importorskip("tensorboard")
    fit(prepared(job("train.steps=3", "train.tracker=tensorboard")), Listeners())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "cmtool")).Reload()
    written = [event.value for event in events.Scalars("loss")]
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert written == pytest.approx([json.loads(line)["loss"] for line in lines])


def test_overwriting_leaves_nothing_of_the_old_run(job, tmp_path):
    fit(prepared(job("train.steps=3")), Listeners())
    fit(prepared(job("train.steps=2", overwrite=True)), Listeners())
    assert [p.name for p in (tmp_path / "run").glob("step-*")] == ["step-00000002"]
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


def test_a_run_that_died_before_its_first_checkpoint_blocks_nobody(job, tmp_path):
    for _ in islice(trainer(job()).steps(), 1):
        pass
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("")
    assert fit(prepared(job("train.steps=1")), Listeners()).steps == 1


def test_the_log_has_every_step_once_after_a_kill(job, tmp_path):
    ready = prepared(job(out="killed"))

    def die(report, run):
        if report.index == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(ready, Listeners(progress=die))
    fit(prepared(job(out="killed", resume=True)), Listeners())
    lines = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(1, 21))


def test_overwriting_the_model_to_start_from_is_refused(job, tmp_path):
    fit(prepared(job("train.steps=1")), Listeners())
    with pytest.raises(RecipeError, match="holds the model to start from"):
        plan(job("train.steps=2", overwrite=True), tmp_path / "run", {}, Listeners())


def test_a_folder_of_other_things_is_never_a_run_directory(job, tmp_path):
    (tmp_path / "run").mkdir()
    for mark in ("latest.tmp", ".latest.123.tmp"):  # A machine that loses its power leaves these.
        (tmp_path / "run" / mark).touch()
    prepared(job(overwrite=True))
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(CheckpointError, match=r"holds thesis.tex, which is not of a run"):
        prepared(job(overwrite=True))


def test_more_steps_go_on_from_the_end(job, tmp_path):
    fit(prepared(job("train.steps=3")), Listeners())
    report = fit(prepared(job("train.steps=5", resume=True)), Listeners())
    assert report.steps == 5
    assert Checkpoint.open(tmp_path / "run").meta.step == 5
    assert Checkpoint.open(tmp_path / "run").meta.images == 40


def test_micro_batches_give_the_gradient_of_the_whole_batch(job, tmp_path):
    settings = ("network.dropout=0.0", "train.steps=3")
    fit(prepared(job(*settings, out="whole")), Listeners())
    fit(prepared(job(*settings, "train.micro_batch=3", out="parts")), Listeners())
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in whole:
        for key, value in whole[name].items():
            torch.testing.assert_close(parts[name][key], value, rtol=1e-5, atol=1e-6)


def test_split_is_exact_for_any_micro_batch(job):
    run = trainer(job("train.micro_batch=3"))
    assert run.split == (1, 4, 2)


def test_target_follows_the_student_with_mu(job):
    run = trainer(job())
    network = run.roles.target.network
    for _ in islice(run.steps(), 4):
        pass
    old = [p.clone() for p in network.parameters()]
    next(run.steps())
    decay = run.loss.target_decay(4, 20)
    student = run.roles.student.network.parameters()
    for then, now, new in zip(old, network.parameters(), student, strict=True):
        torch.testing.assert_close(now, decay * then + (1 - decay) * new)


def test_averages_equal_their_closed_form():
    network = nn.Linear(1, 1, bias=False)
    ema = Ema(network.state_dict(), 0.9, warmup=False)
    with torch.no_grad():
        start = network.weight.clone()
        expected = start.clone()
        for k in range(5):
            network.weight.fill_(float(k))
            ema.update(network.state_dict(), k)
            expected = 0.9 * expected + 0.1 * k
    torch.testing.assert_close(ema.weights["weight"], expected)


def test_a_young_average_forgets_its_start():
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(100.0)
    slow = Ema(network.state_dict(), 0.9999, warmup=False)
    warm = Ema(network.state_dict(), 0.9999, warmup=True)
    with torch.no_grad():
        network.weight.fill_(1.0)
    for k in range(100):
        slow.update(network.state_dict(), k)
        warm.update(network.state_dict(), k)
    assert slow.weights["weight"].item() > 99
    # prod over k of (k + 1) / (k + 10) = 9! 100! / 109!
    left = 99 * math.factorial(9) * math.factorial(100) / math.factorial(109)
    assert warm.weights["weight"].item() == pytest.approx(1 + left, rel=1e-5)


def test_averages_stay_float32_for_low_precision_weights():
    network = nn.Linear(2, 2).bfloat16()
    ema = Ema(network.state_dict(), 0.5)
    ema.update(network.state_dict(), 0)
    assert ema.weights["weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("decay", "step", "expected"),
    [
        ("none", 0, 0.1),
        ("none", 4, 0.5),
        ("none", 99, 1.0),
        ("linear", 50, 0.5),
        ("linear", 150, 0.0),
        ("cosine", 50, 0.5),
        ("cosine", 100, 0.0),
        ("rsqrt", 50, 1.0),
        ("rsqrt", 400, 0.5),
    ],
)
def test_learning_rate_is_a_function_of_the_step(decay, step, expected):
    settings = TrainSettings(lr=1.0, lr_warmup=10, lr_decay=decay, lr_decay_steps=100)
    assert learning_rate(settings, step) == pytest.approx(expected)


def test_a_non_finite_loss_stops_the_run_and_saves_nothing_broken(job, tmp_path):
    run = trainer(job("train.save_every=2"))
    steps = run.steps()
    for _ in islice(steps, 3):
        pass
    with torch.no_grad():
        next(run.roles.student.parameters()).fill_(math.nan)
    with pytest.raises(TrainingError, match=r"nan at step 3 \(noise levels .* to ") as caught:
        next(steps)
    assert "step-00000002" in caught.value.hint
    assert caught.value.exit_code == 1
    saved = weights(tmp_path / "run")
    assert all(v.isfinite().all() for state in saved.values() for v in state.values())


def test_old_checkpoints_go_only_after_the_new_one_is_whole(job, tmp_path):
    fit(prepared(job("train.save_every=4", "train.keep_last=2")), Listeners())
    steps = sorted(p.name for p in (tmp_path / "run").glob("step-*"))
    assert steps == ["step-00000016", "step-00000020"]


def test_a_save_that_dies_leaves_the_previous_checkpoint(job, tmp_path, monkeypatch):
    run = trainer(job("train.save_every=2", "train.keep_last=1"))
    written = checkpoint.save_file

    def full_disk(state, path, *args):
        if run.step == 4 and "ema" in path.name:
            raise OSError(28, "No space left on device")
        written(state, path, *args)

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*No space left"):
        list(run.steps())
    assert Checkpoint.open(tmp_path / "run").meta.step == 2
    assert not list((tmp_path / "run").glob("*.tmp"))
    Checkpoint.open(tmp_path / "run").denoiser()


def test_damaged_weights_are_noticed(job, tmp_path):
    fit(prepared(job("train.steps=1")), Listeners())
    file = checkpoint.latest(tmp_path / "run") / "ema-0.9.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="is damaged: its hash is not the one"):
        Checkpoint.open(tmp_path / "run").denoiser()


def test_a_checkpoint_holds_no_code(job, tmp_path, monkeypatch):
    """Everything, the optimizer's state included, loads with weights_only."""
    fit(prepared(job("train.steps=1")), Listeners())
    saved = Checkpoint.open(tmp_path / "run")
    state = saved.resume_state(torch.device("cpu"))
    assert set(state) == {"optimizer", "scaler"}
    monkeypatch.setattr(torch, "load", None)
    saved.denoiser()


def test_single_files_give_the_same_model(job, tmp_path):
    from cmtool.workflows.load import load

    fit(prepared(job("train.steps=1")), Listeners())
    saved = Checkpoint.open(tmp_path / "run")
    x = torch.randn(2, 1, 8, 8)
    expected = saved.denoiser()(x, 1.0)
    for suffix in (".safetensors", ".pt"):
        file = tmp_path / f"model{suffix}"
        checkpoint.write_file(file, saved.meta, saved.recipe, saved.weights("ema-0.9"))
        model = load(file, device="cpu")
        assert torch.equal(model(x, 1.0), expected)
        assert (model.kind, model.image_shape, model.num_classes) == ("consistency", (1, 8, 8), 0)


def test_recipe_in_the_checkpoint_is_the_resolved_one(job, tmp_path):
    fit(prepared(job("train.steps=1")), Listeners())
    saved = Checkpoint.open(tmp_path / "run").recipe
    assert saved == recipe.parse(recipe.dump(saved), "again")
    assert saved.train == replace(saved.train, device="cpu", precision="no")


def test_bf16_trains_as_float32_does(job):
    common = ("loss.name=dsm", "denoiser.precond=edm", "train.batch_size=32", "train.lr=3e-3")
    Path(job().recipe).write_text(RECIPE.replace("levels_max = 20\n", ""))
    means = {}
    for precision in ("no", "bf16"):
        losses = []
        chosen = ("train.steps=100", f"train.precision={precision}")
        ready = prepared(job(*common, *chosen, out=precision))
        fit(ready, Listeners(progress=lambda report, trainer, to=losses: to.append(report.loss)))
        means[precision] = (sum(losses[:20]) / 20, sum(losses[-20:]) / 20)
    assert means["no"][1] < 0.8 * means["no"][0]
    assert means["bf16"][1] == pytest.approx(means["no"][1], rel=0.05)


TWO = """
import sys
from pathlib import Path
from cmtool.workflows.fit import Job, Listeners, fit
from cmtool.workflows.train import plan
recipe, out = sys.argv[1:]
overrides = ("network.dropout=0.0", "train.steps=4", "train.micro_batch=2")
fit(plan(Job(recipe, overrides=overrides, out=Path(out)), None, {}, Listeners()), Listeners())
"""


@pytest.mark.multi
def test_two_processes_equal_one(job, tmp_path):
    """Gradients, averages, target and learning rate, through torchrun and gloo."""
    (tmp_path / "two.py").write_text(TWO)
    run = [str(tmp_path / "two.py"), job().recipe]
    for start, out in (([sys.executable], "one"), (TORCHRUN, "both")):
        succeed([*start, *run, str(tmp_path / out)])
    one, both = weights(tmp_path / "one"), weights(tmp_path / "both")
    for name in one:
        for key, value in one[name].items():
            torch.testing.assert_close(both[name][key], value, rtol=1e-6, atol=1e-6)
    logs = [
        [json.loads(line) for line in (tmp_path / out / "log.jsonl").read_text().splitlines()]
        for out in ("one", "both")
    ]
    for a, b in zip(*logs, strict=True):
        assert a["lr"] == b["lr"]
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-5)


ENDS = """
import os, sys
from pathlib import Path
from cmtool.errors import RecipeError
from cmtool.workflows.fit import Job, Listeners, fit
from cmtool.workflows.train import plan
recipe, out, error = sys.argv[1:]
def gloo():
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return " ".join(name for name in names if "gloo" in name)
def progress(report, trainer):
    assert gloo()
    if error == "error":
        raise RecipeError("enough")
try:
    job = Job(recipe, overrides=("train.steps=2",), out=Path(out))
    fit(plan(job, None, {}, Listeners()), Listeners(progress=progress))
except RecipeError:
    assert error == "error"
Path(out, os.environ["RANK"]).write_text(gloo() or "none")
"""


@pytest.mark.multi
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="/proc/self/task names threads")
@pytest.mark.parametrize("end", ["error", "well"])
def test_no_thread_of_the_other_processes_outlives_a_run(job, tmp_path, end):
    """One that runs when the interpreter ends may abort the process, after all work is done."""
    (tmp_path / "ends.py").write_text(ENDS)
    out = tmp_path / "ended"
    succeed([*TORCHRUN, str(tmp_path / "ends.py"), job().recipe, str(out), end])
    assert [(out / rank).read_text() for rank in "01"] == ["none", "none"]


def test_the_recipe_counts_and_not_what_the_launcher_was_configured_with(job, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    accelerator = fitting._accelerator(prepared(job()))
    weight = torch.ones((), requires_grad=True)
    accelerator.backward(3 * weight)
    assert weight.grad == 3
    assert accelerator.state.dynamo_plugin.backend == "NO"
    assert accelerator.mixed_precision == "no"


def test_a_batch_that_does_not_split_is_refused(job, monkeypatch):
    ready = prepared(job("train.batch_size=9"))
    accelerator = fitting._accelerator(ready)
    monkeypatch.setattr(type(accelerator), "num_processes", 2)
    with pytest.raises(CmtoolError, match="batch_size 9 does not split over 2") as caught:
        fitting._trainer(ready, accelerator)
    assert "8, 10" in caught.value.hint
