"""Laws of drawing: another schedule, classes, truncated noise, and which image depends on what."""

import json
import math

import pytest
import torch
from torch import nn

from cmtool import registry
from cmtool.denoiser import EDM, Consistency, Denoiser
from cmtool.errors import CheckpointError, RecipeError
from cmtool.networks.adm import Adm
from cmtool.networks.tiny import Tiny
from cmtool.rng import SeedRng
from cmtool.schedules.karras import Karras
from cmtool.workflows._draw import draw, image_count, labelled, plan_for, truncated
from cmtool.workflows._sharded import identity
from tests import oracles

SHAPE = (1, 8, 8)
SCHEDULES = registry.names("schedules")


class Echo(nn.Module):
    """A network whose answer shows the class that it is told."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, c_noise, label=None):
        return self.scale * torch.tanh(x + 0.1 * label[:, None, None, None])


def _model(kind="consistency", names=()):
    torch.manual_seed(0)
    network = Echo() if names else Tiny(width=16, patch=2).build(8, 1, 0)
    precond = EDM() if kind == "diffusion" else Consistency()
    return Denoiser(network, precond, Karras(), kind, SHAPE, tuple(names)).eval()


ANIMALS = ("cat", "dog", "eel", "red, blue fox")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ["consistency", "diffusion"])
def test_every_schedule_keeps_the_models_range_and_the_number_of_evaluations(name, kind):
    model, calls = _model(kind), []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    for steps in (1, 2, 3, 10):
        plan = plan_for(model, steps, schedule=name)
        calls.clear()
        images, _ = draw(model, plan, range(2), seed=0)
        assert len(calls) == plan.nfe == steps
        assert images.isfinite().all()
        assert float(plan.times[0]) == pytest.approx(80, rel=1e-9)
        assert (plan.times.diff() < 0).all()
        if kind == "diffusion" and steps > 1:
            assert float(plan.times[-1]) == pytest.approx(0.002, rel=1e-9)
        assert name == "karras" or f"schedule {name}" in str(plan)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_along_every_schedule_the_ode_ends_at_the_flows_end(name, solver):
    """The image is where the exact trajectory from the same noise ends, in any frame."""
    gaussian = oracles.Gaussian(Karras())
    model = oracles.model(gaussian.denoise, Karras(), "diffusion", SHAPE)
    plan = plan_for(model, 301, solver=solver, schedule=name)
    images, _ = draw(model, plan, range(3), seed=0)
    schedule = plan.schedule or model.schedule
    t = schedule.from_sigma(torch.tensor(80.0).double())
    start = float(schedule(t).sigma / schedule(t).alpha)
    x = start * SeedRng(0, range(3)).randn(SHAPE).double()
    end = gaussian.consistency(x, torch.full((3,), start).double())
    torch.testing.assert_close(
        images.double(), end, atol=0.05 if solver == "euler" else 5e-3, rtol=0
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_at_given_levels_a_schedule_changes_only_the_frame(name):
    model = _model()
    plain = draw(model, plan_for(model, times=[80.0, 2.0, 0.3]), range(4), seed=1)[0]
    other = draw(model, plan_for(model, times=[80.0, 2.0, 0.3], schedule=name), range(4), seed=1)[0]
    torch.testing.assert_close(other, plain, atol=1e-4, rtol=0)


def test_an_unknown_schedule_is_named_with_the_nearest():
    with pytest.raises(RecipeError, match=r"unknown schedule 'karas' \(did you mean 'karras'\?\)"):
        plan_for(_model(), 2, schedule="karas")


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan, math.inf])
def test_gamma_is_a_share(gamma):
    with pytest.raises(RecipeError, match="--gamma must lie between 0 and 1"):
        plan_for(_model(), 2, gamma=gamma)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_with_gamma_and_truncation_image_i_depends_on_i_alone(gamma):
    model = _model(names=ANIMALS)
    plan = truncated(plan_for(model, 3, gamma=gamma), 0.7)
    plan = labelled(plan, model, "dog,eel", per_label=4)
    whole, labels = draw(model, plan, range(8), seed=3)
    assert labels.tolist() == [1] * 4 + [2] * 4
    for i in range(8):
        part, label = draw(model, plan, [i], seed=3)
        torch.testing.assert_close(part[0], whole[i], rtol=0, atol=2e-6)
        assert label[0] == labels[i]


def test_truncation_is_a_factor_of_the_first_noise_alone():
    """Half the deviation at the largest level; the noise between the steps is whole."""
    seen = []
    model = _model()
    model.network.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    for truncation in (1.0, 0.5):
        draw(model, truncated(plan_for(model, 1), truncation), range(4), seed=0)
    torch.testing.assert_close(seen[1], 0.5 * seen[0])
    whole, off = (
        draw(model, plan, range(4), seed=0)[0]
        for plan in (plan_for(model, 2), truncated(plan_for(model, 2), 1.0))
    )
    assert torch.equal(whole, off)


@pytest.mark.parametrize("truncation", [0.0, -1.0, 1.01, math.nan])
def test_truncation_is_a_factor_up_to_1(truncation):
    with pytest.raises(RecipeError, match="--truncation must be above 0 and at most 1"):
        truncated(plan_for(_model(), 1), truncation)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (None, {0, 1, 2, 3}),
        ("eel", {2}),
        (3, {3}),
        ("dog, 0", {0, 1}),
        ("red, blue fox", {3}),
    ],
)
def test_classes_are_drawn_from_those_that_are_named(label, expected):
    model = _model(names=ANIMALS)
    plan = labelled(plan_for(model, 1), model, label)
    labels = draw(model, plan, range(200), seed=0)[1]
    counts = torch.bincount(labels, minlength=4)
    assert {i for i in range(4) if counts[i]} == expected
    # 5 standard errors of an even draw.
    share = 1 / len(expected)
    assert (counts[list(expected)] / 200 - share).abs().max() <= 5 * (
        share * (1 - share) / 200
    ) ** 0.5


def test_so_many_of_each_class_come_class_by_class():
    model = _model(names=ANIMALS)
    plan = labelled(plan_for(model, 1), model, "eel,cat", per_label=3)
    assert image_count(plan, model, None) == 6
    assert draw(model, plan, range(6), seed=0)[1].tolist() == [2, 2, 2, 0, 0, 0]
    every = labelled(plan_for(model, 1), model, None, per_label=2)
    assert image_count(every, model, None) == 8
    assert draw(model, every, range(8), seed=0)[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_class_changes_the_class_and_not_the_noise():
    model, seen = _model(names=ANIMALS), []
    model.network.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    for label in (None, "cat", "dog,eel"):
        draw(model, labelled(plan_for(model, 1), model, label), range(4), seed=0)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("high", [0.3, 1.0, 80.0])
@pytest.mark.parametrize("steps", [2, 3, 50])
def test_default_levels_fall_whatever_the_range(high, steps):
    model = _model()
    model.schedule = Karras(0.002, high)
    levels = plan_for(model, steps).times
    assert (levels.diff() < 0).all()
    assert levels[0] == high
    assert levels[-1] >= 0.002


def test_all_that_changes_an_image_changes_the_request():
    """The same weights draw other images in another preconditioning or with other heads."""
    torch.manual_seed(0)
    nets = [Adm(32, (1,), 1, (8,), head_channels=c).build(8, 1, 0) for c in (16, 32)]
    nets[1].load_state_dict(nets[0].state_dict())
    models = [
        Denoiser(net.eval(), precond, Karras(), "diffusion", SHAPE)
        for net, precond in ((nets[0], EDM()), (nets[0], EDM(0.6)), (nets[1], EDM()))
    ]
    requests = [identity(model, plan_for(model, 3), 0, 4) for model in models]
    assert len({request["weights"] for request in requests}) == 1
    assert len({json.dumps(request) for request in requests}) == 3
    assert identity(models[0], plan_for(models[0], 3), 0, 4) == requests[0]


@pytest.mark.parametrize("kind", ["consistency", "diffusion"])
def test_broken_weights_draw_no_images(kind):
    model = _model(kind)
    next(p for p in model.network.parameters() if p.ndim == 4).data.fill_(math.nan)
    with pytest.raises(CheckpointError, match="images are not finite"):
        draw(model, plan_for(model, 3), range(2), seed=0)
