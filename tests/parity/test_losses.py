"""CD, CT, PD and the EDM loss against the released implementation, image by image."""

import re

import pytest
import torch

from cmtool.denoiser import EDM, Consistency, Denoiser
from cmtool.foreign import openai
from cmtool.losses.base import Roles, Step
from cmtool.losses.cd import CD
from cmtool.losses.ct import CT
from cmtool.losses.dsm import DSM
from cmtool.losses.pd import PD
from cmtool.networks.adm import Adm
from cmtool.schedules.karras import Karras
from cmtool.solvers.euler import Euler
from cmtool.solvers.heun import Heun
from cmtool.teacher import Teacher
from cmtool.tensors import Batch
from tests import golden_cases as golden

CASE = golden.cases()["losses"]
STORED = golden.tensors("losses")
KEYS = CASE["keys"]


def _model(seed: int, kind: str) -> Denoiser:
    config = CASE["config"]
    size, channels = config["image_size"], config["in_channels"]
    spec = Adm(
        channels=config["model_channels"],
        channel_mult=tuple(config["channel_mult"]),
        blocks=config["num_res_blocks"],
        attention=tuple(size // factor for factor in config["attention_resolutions"]),
        head_channels=config["num_head_channels"],
        scale_shift=config["use_scale_shift_norm"],
        resblock_updown=config["resblock_updown"],
    )
    weights = golden.parameters(CASE["student"]["parameters"], seed)
    network = spec.build(size, channels, 0)
    network.load_state_dict(openai.to_ours(weights, spec, size, channels, 0))
    precond = EDM(noise_scale=250.0) if kind == "diffusion" else Consistency(EDM(noise_scale=250.0))
    return Denoiser(network, precond, Karras(), kind, (channels, size, size)).eval()


@pytest.fixture(scope="module")
def models():
    return (
        _model(CASE["student"]["seed"], "consistency"),
        _model(CASE["target_seed"], "consistency"),
        _model(CASE["teacher_seed"], "diffusion"),
    )


class Recorded:
    """The reference's own draws in place of ours."""

    def __init__(self, draws, u=None):
        self.draws, self.u = iter(draws), u

    def randn(self, *shape):
        return next(self.draws)

    def rand(self):
        return self.u

    def position(self):
        return torch.ones_like(self.u)


@pytest.mark.parametrize("key", KEYS)
def test_pair_losses(models, key):
    mode, levels, distance, weighting = re.fullmatch(r"(cd|ct|pd)_N(\d+)_(.+)_(.+)", key).groups()
    student, target, model = models
    indices, n = STORED[f"{mode}_N{levels}_indices"], int(levels)
    # The middle of each pair's share of [0, 1), so that our draw gives the stored pair. PD's grid
    # has N pairs.
    rng = Recorded([STORED["noise"]], (indices + 0.5) / (n if mode == "pd" else n - 1))
    if mode == "pd":
        loss, teacher = PD(distance, None, weighting, n), Teacher(Karras(), Euler(), model)
        student = Denoiser(student.network, model.precond, Karras(), "diffusion", model.image_shape)
    elif mode == "cd":
        loss, teacher = CD(distance, None, weighting, levels=n), Teacher(Karras(), Heun(), model)
    else:
        loss = CT(distance, None, weighting, levels_min=n, levels_max=n)
        teacher = Teacher(Karras(), Euler())
    out = loss(Roles(student, target, teacher), Batch(STORED["x_start"]), Step(0, 1, rng)).loss
    # CT's Euler step cancels near t = 80 in the reference's own float32.
    tolerance = 1e-4 if mode == "ct" else 1e-5
    assert ((out - STORED[key]).abs() / STORED[key].abs()).max() <= tolerance


def test_edm_loss(models):
    """The student network under EDM's preconditioner, at stored noise levels."""
    student = models[0]
    model = Denoiser(student.network, EDM(noise_scale=250.0), Karras(), "diffusion", (3, 16, 16))
    normal = (STORED["edm_sigmas"].log() + 1.2) / 1.2
    roles = Roles(model, model, Teacher(Karras(), Euler()))
    step = Step(0, 1, Recorded([normal, STORED["noise"]]))
    out = DSM()(roles, Batch(STORED["x_start"]), step).loss
    assert ((out - STORED["edm_loss"]).abs() / STORED["edm_loss"].abs()).max() <= 1e-5


def test_there_are_cases():
    assert len(KEYS) >= 20
