"""What a batch knows beside its images reaches every network of every loss."""

import pytest
import torch
from torch import nn

from cmtool import registry
from cmtool.denoiser import EDM, Consistency, Denoiser, LogWeight
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


def model(kind, precond, schedule, seen):
    """A small conditional denoiser that notes what its network is told."""
    torch.manual_seed(0)
    network = Ddpmpp(channels=16, channel_mult=(1,), blocks=1, augment_dim=9).build(8, 1, 3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[2], kwargs.get("augment"))),
        with_kwargs=True,
    )
    return Denoiser(network, precond, schedule, kind, SHAPE, ("a", "b", "c"))


def test_every_network_is_told_the_class_and_the_augmentation(loss):
    schedule = TrigFlow() if registry.name_of("losses", type(loss)) in ("scd", "sct") else Karras()
    seen = {name: [] for name in ("student", "target", "teacher")}
    precond = Consistency() if loss.kind == "consistency" else EDM()
    precond = EDM() if isinstance(schedule, TrigFlow) else precond
    student, target = (model(loss.kind, precond, schedule, seen[n]) for n in ("student", "target"))
    if loss.learns_weight:
        student.log_weight = LogWeight()
    answers = None
    if loss.needs_teacher_model:
        answers = model("diffusion", EDM(), schedule, seen["teacher"]).requires_grad_(False)
    roles = Roles(student, target, Teacher(schedule, Euler(), answers))
    batch = Batch(torch.rand(N, *SHAPE), torch.tensor([0, -1, 2, 1]), torch.randn(N, 9))
    loss(roles, batch, Step(5, 10, StepRng(0, 5, N, slice(0, N))))
    assert seen["student"]
    assert bool(seen["teacher"]) == loss.needs_teacher_model
    for told in seen.values():
        for label, augment in told:
            # A loss may ask about a part of the batch, such as the images whose r is above 0.
            rows = [
                (batch.label == c) & (batch.augment == a).all(1)
                for c, a in zip(label, augment, strict=True)
            ]
            assert all(row.sum() == 1 for row in rows)
