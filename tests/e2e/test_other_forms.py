"""Teachers that are not wrapped as EDM's are: a student of theirs starts from them and learns.

Their c_out grows with the noise level, and with it every error of the network. So that few steps
show something, the noise ends at 10 here. Up to 80, in 80 steps from one VP teacher, loss.weighting
= "snr" alone came nearer at every level; "karras" moved far away.
"""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cmtool.denoiser import Denoiser
from cmtool.preconditioner import VE, VP, Consistency, Preconditioner
from cmtool.workflows import distill, train
from cmtool.workflows.fit import Job, Listeners, Prepared, fit
from cmtool.workflows.load import open_model

SMALL = ("network.channels=32", "network.channel_mult=[1]", "network.blocks=1")
TEACHER = ("train.steps=100", "train.batch_size=32", "train.lr=2e-3", "train.ema=[0.9]")
STUDENT = (
    "train.steps=40",
    "train.batch_size=32",
    "train.lr=3e-4",
    "train.ema=[0.8]",
    "train.log_every=1",
)

FORMS: dict[str, tuple[str, Preconditioner]] = {
    "vp": ("ddpmpp", VP(0.75)),
    "ve": ("ncsnpp", VE(0.75)),
}


# Each trains a teacher; what takes two steps is in test_nvidia_teacher.py.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=FORMS)
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A teacher of 100 steps with the network that goes with the form, and its student."""
    place: Path = tmp_path_factory.mktemp(request.param)
    network, _ = FORMS[request.param]
    wrapped = (f"network.name={network}", f"denoiser.scalings={request.param}", *SMALL)
    recipe = place / "dsm.toml"
    recipe.write_text(
        '[denoiser]\nsigma_data = 0.75\n[schedule]\nsigma_max = 10\n[loss]\nname = "dsm"\n'
    )
    job = Job(str(recipe), "digits", overrides=(*wrapped, *TEACHER), out=place / "teacher")
    fit(train.plan(job, None, {}, Listeners()), Listeners())
    recipe.write_text('[solver]\nname = "heun"\n[loss]\nname = "cd"\ndistance = "l2"\n')
    job = Job(str(recipe), "digits", overrides=STUDENT, out=place / "student")
    return distill.plan(job, place / "teacher", {}, Listeners())


def trajectories(ready: Prepared) -> tuple[list[float], list[Tensor]]:
    """The teacher's, from noise to data: Heun's method in 10 steps."""
    assert ready.teacher is not None
    teacher, times = ready.teacher.denoiser, ready.recipe.schedule.grid(11).tolist()
    points = [times[0] * torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))]
    for t, r in pairwise(times):
        x = points[-1]
        slope = (x - teacher(x, t)) / t
        ahead = x + (r - t) * slope
        points.append(x + (r - t) / 2 * (slope + (ahead - teacher(ahead, r)) / r))
    return times, points


def error(model: Denoiser, times: list[float], points: list[Tensor]) -> float:
    """How far from a trajectory's end the model ends it, from all its points."""
    ended = [model(x, t) - points[-1] for t, x in zip(times, points, strict=True)]
    return float(torch.stack(ended).square().mean().sqrt())


def test_a_student_is_its_teacher_with_the_boundary_moved(ready: Prepared) -> None:
    """So its first function is the teacher's: c_skip is 1 in both, and c_out differs by the
    boundary, 0.002, which the network's output of a few units multiplies."""
    assert ready.teacher is not None
    teacher = ready.teacher.denoiser
    form = FORMS[ready.recipe.denoiser.scalings][1]
    assert teacher.precond == form
    assert ready.student.precond == Consistency(form, 0.002)
    theirs = teacher.network.state_dict()
    assert all(torch.equal(t, theirs[k]) for k, t in ready.student.network.state_dict().items())
    generator = torch.Generator().manual_seed(1)
    for sigma in (0.5, 2.0, 10.0):
        x = sigma * torch.randn(16, 1, 8, 8, generator=generator)
        with torch.no_grad():
            difference = (ready.student.eval()(x, sigma) - teacher(x, sigma)).abs().max()
        assert 0 < float(difference) < 0.01


@torch.no_grad()
def measured(ready: Prepared, model: Denoiser) -> float:
    return error(model.eval(), *trajectories(ready))


def test_distillation_leads_to_the_ends_of_the_teachers_trajectories(ready: Prepared) -> None:
    before = measured(ready, ready.student)
    assert fit(ready, Listeners()).steps == 40
    lines = (ready.out / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    assert measured(ready, open_model(ready.out).denoiser) < 0.95 * before
