"""Losses that take a derivative, in the training loop: two processes, and what a run writes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from two_processes import TORCHRUN, succeed

from cmtool.checkpoint import Checkpoint
from cmtool.errors import RecipeError
from cmtool.workflows import distill, train
from cmtool.workflows.fit import Job, Listeners, fit

RECIPE = """
[network]
name = "tiny"
width = 16
blocks = 1
attention = true
head_channels = 8

[denoiser]
precond = "{precond}"

[loss]
name = "{loss}"

[data]
name = "digits"
conditional = true
label_dropout = 0.1

[train]
steps = 4
batch_size = 8
lr = 1e-3
ema = [0.9]
log_every = 1
sample_every = 4
"""
LOSSES = {"sct": "edm", "ct-continuous": "consistency", "scd": "edm", "cd-continuous": "edm"}

GRADIENTS = """
import sys
from pathlib import Path
import torch
from cmtool.workflows import fit as fitting
from cmtool.workflows.train import plan
def main():
    recipe, out = sys.argv[1:]
    job = fitting.Job(recipe, overrides=("train.micro_batch=2",), out=Path(out))
    ready = plan(job, None, {}, fitting.Listeners())
    accelerator = fitting._accelerator(ready)
    trainer = fitting._trainer(ready, accelerator)
    torch.manual_seed(0)
    names = [name for name, _ in trainer.roles.student.named_parameters()]
    with torch.no_grad():
        for parameter in trainer._parameters:
            parameter.normal_(std=0.1)
    found = {}
    def keep():
        found.update({n: p.grad.clone() for n, p in zip(names, trainer._parameters, strict=True)})
    trainer._optimizer.step = keep
    trainer._one_step()
    if accelerator.is_main_process:
        torch.save(found, out)
    trainer.end()
main()
"""


def write(folder: Path, loss: str, extra: str = "") -> str:
    path = folder / f"{loss}.toml"
    path.write_text(RECIPE.format(loss=loss, precond=LOSSES[loss]) + extra)
    return str(path)


@pytest.mark.multi
@pytest.mark.parametrize("loss", ["sct", "ct-continuous"])
def test_two_processes_give_the_gradients_of_one(loss, tmp_path):
    """Each in two micro-batches, through DDP: a derivative taken around DDP would not be summed."""
    (tmp_path / "run.py").write_text(GRADIENTS)
    found = {}
    for name, start in (("one", [sys.executable]), ("two", TORCHRUN)):
        succeed([*start, str(tmp_path / "run.py"), write(tmp_path, loss), str(tmp_path / name)])
        found[name] = torch.load(tmp_path / name, weights_only=True)
    assert found["one"].keys() == found["two"].keys()
    assert any("log_weight" in name for name in found["one"]) == (loss == "sct")
    one, two = (torch.cat([g.flatten() for g in found[name].values()]) for name in ("one", "two"))
    assert one.norm() > 1e-3
    assert (two - one).norm() < 1e-6 * one.norm()
    assert (two - one).abs().max() < 1e-6 * one.abs().max()


@pytest.fixture
def teacher(tmp_path):
    """A diffusion model of four steps."""
    text = RECIPE.format(loss="dsm", precond="edm")
    (tmp_path / "dsm.toml").write_text(text)
    job = Job(str(tmp_path / "dsm.toml"), out=tmp_path / "teacher")
    fit(train.plan(job, None, {}, Listeners()), Listeners())
    return tmp_path / "teacher"


def run(name, tmp_path, teacher, *overrides):
    said = []
    job = Job(write(tmp_path, name), overrides=overrides, out=tmp_path / "run")
    listeners = Listeners(say=said.append)
    if name in ("scd", "cd-continuous"):
        ready = distill.plan(job, teacher, {}, listeners)
    else:
        ready = train.plan(job, teacher, {}, listeners)
    fit(ready, listeners)
    return [json.loads(line) for line in (job.out / "log.jsonl").read_text().splitlines()], said


@pytest.mark.parametrize("name", LOSSES)
def test_a_run_saves_a_consistency_model_of_the_right_form(name, tmp_path, teacher):
    """From an EDM teacher or its weights; the derivative is announced; samples are drawn."""
    log, said = run(name, tmp_path, teacher)
    assert len(log) == 4
    assert any("derivative along the trajectory: in float32" in line for line in said)
    saved = Checkpoint.open(tmp_path / "run")
    assert saved.meta.kind == "consistency"
    scm = name.startswith("s")
    assert saved.recipe.denoiser.precond == ("edm" if scm else "consistency")
    assert any(key.startswith("log_weight") for key in saved.weights("student")) == scm
    assert (tmp_path / "run" / "samples" / "step-00000004.png").is_file()
    if scm:
        assert [line["r"] for line in log] == pytest.approx([0, 1e-4, 2e-4, 3e-4])
        assert {"jvp_share", "w_at_1", "g_below_10"} <= log[-1].keys()


def test_an_scm_student_has_its_boundary_at_zero(tmp_path, teacher):
    with pytest.raises(RecipeError, match="identity at 0 noise") as caught:
        run("sct", tmp_path, teacher, "denoiser.precond=consistency")
    assert caught.value.hint == "--set denoiser.precond=edm"
