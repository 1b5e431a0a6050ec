"""The ECT loss and its r(t) against the released implementation, image by image."""

import re

import pytest
import torch
from torch import nn

from cmtool.denoiser import EDM, Denoiser
from cmtool.losses.base import Roles, Step
from cmtool.losses.ect import ECT
from cmtool.schedules.karras import Karras
from cmtool.solvers.euler import Euler
from cmtool.teacher import Teacher
from cmtool.tensors import Batch
from tests import golden_cases as golden

CASE = golden.cases()["ect"]
STORED = golden.tensors("ect")


class Convolution(nn.Module):
    """The case's network: one 3x3 convolution that is told no noise level."""

    def __init__(self):
        super().__init__()
        weight = STORED["conv.weight"]
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        self.conv.load_state_dict({"weight": weight, "bias": STORED["conv.bias"]})

    def forward(self, x, c_noise, label=None):
        return self.conv(x)


class Recorded:
    """The reference's own draws: the normal number of each image's time, then the noise."""

    def __init__(self, key):
        self.draws = iter([STORED[f"{key}.normal"].flatten(), STORED[f"{key}.eps"]])

    def randn(self, *shape):
        return next(self.draws)


@pytest.mark.parametrize("key", CASE["keys"])
def test_loss_and_times(key):
    mapping, stage, c = re.fullmatch(r"(const|sigmoid)_stage(\d+)_c([\d.]+)", key).groups()
    stage, config = int(stage), CASE["config"]
    loss = ECT(
        huber_c=float(c),
        stages=stage + 1,
        q=float(config["q"]),
        mapping=mapping,
        k=float(config["k"]),
        b=float(config["b"]),
        p_mean=config["P_mean"],
        p_std=config["P_std"],
    )
    x, precond = STORED["x_start"], EDM(config["sigma_data"])
    student = Denoiser(Convolution(), precond, Karras(), "consistency", tuple(x.shape[1:]))
    roles = Roles(student, student, Teacher(Karras(), Euler()))
    _, r = loss.pairs(roles, Step(stage, stage + 1, Recorded(key)))
    expected = STORED[f"{key}.r"].flatten()
    torch.testing.assert_close(r, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(r == 0, expected == 0)
    out = loss(roles, Batch(x), Step(stage, stage + 1, Recorded(key))).loss
    # The reference's own sqrt(l^2 + c^2) - c cancels where c > 0.
    tolerance = 1e-3 if float(c) > 0 else 1e-5
    assert ((out - STORED[f"{key}.loss"]).abs() / STORED[f"{key}.loss"].abs()).max() <= tolerance


def test_there_are_cases():
    assert len(CASE["keys"]) >= 12
