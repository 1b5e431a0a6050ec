"""What a batch knows beside its images reaches every network of every loss."""

import pytest
import torch
from torch import nn

from cmtool import registry
from cmtool.denoiser import EDM, Consistency, Denoiser, Guidable, LogWeight
from cmtool.losses.base import Roles, Step
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.rng import StepRng
from cmtool.schedules.karras import Karras
from cmtool.schedules.trigflow import TrigFlow
from cmtool.solvers.euler import Euler
from cmtool.teacher import Teacher
from cmtool.tensors import Batch

SHAPE, N = (1, 8, 8), 4


@pytest.fixture(params=registry.names("losses"))
def loss(request):
    return registry.load("losses", request.param)()


def model(kind, precond, schedule, seen, as_input):
    """A small conditional denoiser that notes what its network is told."""
    torch.manual_seed(0)
    small = Ddpmpp(16, (1,), blocks=1, augment_dim=9, guidance_input=as_input)
    network = small.build(8, 1, 3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[2], kwargs)), with_kwargs=True
    )
    guidable = Guidable(0.0, 9.0, as_input)
    return Denoiser(network, precond, schedule, kind, SHAPE, ("a", "b", "c"), guidable=guidable)


def test_every_network_is_told_class_augmentation_and_guidance(loss):
    """The teacher, which takes no guidance, is asked with the class and without."""
    schedule = TrigFlow() if registry.name_of("losses", type(loss)) in ("scd", "sct") else Karras()
    seen = {name: [] for name in ("student", "target", "teacher")}
    consistency = loss.kind == "consistency" and isinstance(schedule, Karras)
    precond = Consistency() if consistency else EDM()
    student, target = (
        model(loss.kind, precond, schedule, seen[name], True) for name in ("student", "target")
    )
    if loss.learns_weight:
        student.log_weight = LogWeight()
    answers = None
    if loss.needs_teacher_model:
        answers = model("diffusion", EDM(), schedule, seen["teacher"], False).requires_grad_(False)
    roles = Roles(student, target, Teacher(schedule, Euler(), answers))
    batch = Batch(
        torch.rand(N, *SHAPE), torch.tensor([0, -1, 2, 1]), torch.randn(N, 9), torch.rand(N) + 1
    )
    loss(roles, batch, Step(5, 10, StepRng(0, 5, N, slice(0, N))))
    assert seen["student"]
    assert bool(seen["teacher"]) == loss.needs_teacher_model
    for label, told in seen["student"] + seen["target"]:
        # A loss may ask about a part of the batch, such as the images whose r is above 0.
        for c, a, w in zip(label, told["augment"], told["guidance"], strict=True):
            same = (batch.label == c) & (batch.augment == a).all(1) & (batch.guidance == w)
            assert same.sum() == 1
    for (label, told), (none, again) in zip(
        seen["teacher"][::2], seen["teacher"][1::2], strict=True
    ):
        assert torch.equal(label, batch.label)
        assert none is None
        assert torch.equal(told["augment"], batch.augment)
        assert torch.equal(again["augment"], batch.augment)
        assert "guidance" not in told
