"""Guidance: as an input of networks, drawn in training, classifier-free in sampling."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from cmtool import recipe
from cmtool.checkpoint import Checkpoint
from cmtool.denoiser import EDM, Denoiser, Guidable
from cmtool.errors import RecipeError
from cmtool.networks.adm import Adm
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.networks.ncsnpp import Ncsnpp
from cmtool.networks.tiny import Tiny
from cmtool.schedules.karras import Karras
from cmtool.solvers.euler import Euler
from cmtool.teacher import Teacher
from cmtool.tensors import Batch, expand
from cmtool.workflows._draw import draw, guided, plan_for
from cmtool.workflows.distill import plan as distill
from cmtool.workflows.fit import Job, Listeners, fit
from cmtool.workflows.sample import Request, sample, sample_to_files
from cmtool.workflows.train import plan

SMALL = {"channels": 32, "channel_mult": (1,), "blocks": 1}
NETWORKS = {
    "tiny": Tiny(width=16, patch=1),
    "ddpmpp": Ddpmpp(**SMALL, augment_dim=9),
    "ncsnpp": Ncsnpp(**SMALL, augment_dim=9),
    "adm": Adm(**SMALL, attention=(), head_channels=32),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network that takes guidance, with weights that are nowhere zero but in the guidance's own
    layer."""
    torch.manual_seed(0)
    built = with_input(NETWORKS[request.param]).build(8, 1, 3)
    for name, parameter in built.named_parameters():
        if not name.endswith("guidance.weight"):
            nn.init.normal_(parameter, std=0.1)
    return built


def with_input(spec):
    return replace(spec, guidance_input=True)


def inputs(n=4):
    return torch.randn(n, 1, 8, 8), torch.randn(n), torch.tensor([0, 1, 2, -1])


@pytest.mark.parametrize("name", NETWORKS)
def test_without_the_option_no_weight_is_added(name):
    plain, told = (
        s.build(8, 1, 3).state_dict() for s in (NETWORKS[name], with_input(NETWORKS[name]))
    )
    (added,) = told.keys() - plain.keys()
    assert added.endswith("guidance.weight")
    assert not told[added].any()
    assert plain.keys() <= told.keys()


def test_guidance_changes_nothing_at_first(network):
    x, c_noise, label = inputs()
    w = torch.tensor([1.0, 2.0, 5.0, 0.0])
    torch.testing.assert_close(network(x, c_noise, label, guidance=w), network(x, c_noise, label))


def test_weight_one_is_no_guidance_whatever_was_learned(network):
    x, c_noise, label = inputs()
    weight = next(p for n, p in network.named_parameters() if n.endswith("guidance.weight"))
    nn.init.normal_(weight)
    plain = network(x, c_noise, label)
    assert torch.equal(network(x, c_noise, label, guidance=torch.ones(4)), plain)
    guided = network(x, c_noise, label, guidance=torch.tensor([1.0, 1.0, 3.0, 1.2]))
    assert torch.equal(guided[:2], plain[:2])
    assert ((guided - plain)[2:].abs().amax((1, 2, 3)) > 1e-3).all()


def test_every_weight_is_used_when_nothing_is_told(network):
    """Else data-parallel training stops at a parameter without a gradient."""
    x, c_noise, label = inputs()
    network(x, c_noise, label).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


# The guided answer, where it is known.


class Shifted(nn.Module):
    """A network whose denoiser is D(x, t, label) = x / 2 + shift[label], and x / 2 without."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([0.3, -0.1], dtype=torch.float64))

    def forward(self, scaled, c_noise, label=None):
        c = EDM()((4 * c_noise).exp())
        x = scaled / expand(c.c_in, scaled)
        shift = torch.zeros(len(x), dtype=x.dtype)
        if label is not None:
            shift = torch.where(label >= 0, self.shift[label.clamp(min=0)], 0.0)
        target = x / 2 + expand(shift, x)
        return (target - expand(c.c_skip, x) * x) / expand(c.c_out, x)


@pytest.fixture
def exact():
    guidable = Guidable(0.0, math.inf, as_input=False)
    classes = ("a", "b")
    return Denoiser(
        Shifted(), EDM(), Karras(), "diffusion", (1, 2, 2), classes, guidable=guidable
    ).requires_grad_(False)


def test_guided_answers_are_those_of_the_formula(exact):
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    t, label = torch.full((4,), 2.0).double(), torch.tensor([0, 1, -1, 0])
    shift = torch.tensor([0.3, -0.1, 0.0, 0.3]).double()
    w = torch.tensor([1.0, 2.0, 7.0, 0.0]).double()
    for guidance, expected in ((w, w * shift), (3.0, 3 * shift), (1.0, shift), (0.0, 0 * shift)):
        answer = exact.bind(label, guidance=guidance)(x, t)
        torch.testing.assert_close(answer, x / 2 + expand(expected, x))


def test_a_drawn_weight_guides_each_image_of_the_teachers_step(exact):
    """dx/dt = (x - x/2 - w shift) / t, one Euler step of it, w the batch's own."""
    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    t, r = torch.full((3,), 2.0).double(), torch.full((3,), 1.5).double()
    w = torch.tensor([1.0, 2.0, 3.0]).double()
    batch = Batch(x, torch.tensor([0, 0, 1]), None, w)
    teacher = Teacher(Karras(), Euler(), exact, guidance=9.0)
    slope = (x / 2 - expand(w * torch.tensor([0.3, 0.3, -0.1]).double(), x)) / 2
    torch.testing.assert_close(teacher.velocity(x, t, batch), slope)
    torch.testing.assert_close(teacher.step(x, t, r, batch), x - 0.5 * slope)
    fixed = Teacher(Karras(), Euler(), exact, guidance=2.0)
    slope = (x / 2 - expand(2 * torch.tensor([0.3, 0.3, -0.1]).double(), x)) / 2
    torch.testing.assert_close(fixed.velocity(x, t, batch._replace(guidance=None)), slope)


def test_plans_count_both_evaluations_and_say_so(exact):
    plan = guided(plan_for(exact, 35), exact, 2.0)
    assert plan.nfe == 70
    assert str(plan).startswith("NFE 70 (17 heun steps, guidance 2, ")
    assert guided(plan_for(exact, 35), exact, 1.0).nfe == 35
    calls = []
    exact.network.register_forward_hook(lambda *_: calls.append(1))
    draw(exact.float(), plan, range(2), seed=0)
    assert len(calls) == 70


# From recipe to images.

TEACHER = """
[network]
name = "tiny"
width = 16
patch = 1
dropout = 0.1

[loss]
name = "dsm"

[data]
name = "digits"
conditional = true
label_dropout = 0.2

[train]
steps = 3
batch_size = 8
lr = 1e-2
optimizer = "adam"
"""
STUDENT = """
[loss]
name = "cd"

[data]
name = "digits"
label_dropout = 0.2

[train]
steps = 3
batch_size = 8
lr = 1e-2
optimizer = "adam"
ema = [0.0]
"""
DRAWN = "teacher.guidance=[1, 3]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with both recipes and a trained teacher."""
    made = tmp_path_factory.mktemp("guidance")
    (made / "teacher.toml").write_text(TEACHER)
    (made / "student.toml").write_text(STUDENT)
    fit(
        plan(Job(str(made / "teacher.toml"), out=made / "teacher"), None, {}, Listeners()),
        Listeners(),
    )
    return made


def student(folder, *overrides, out, teacher="teacher"):
    job = Job(str(folder / "student.toml"), overrides=overrides, out=folder / out)
    return distill(job, folder / teacher, {}, Listeners())


def weights(path):
    return Checkpoint.open(path).weights("student")


def test_a_student_of_drawn_guidance_takes_it_as_an_input(folder):
    ready = student(folder, DRAWN, out="drawn")
    assert ready.recipe.network.guidance_input
    start, theirs = ready.student.network.state_dict(), weights(folder / "teacher")
    added = "embed.guidance.weight"
    assert start.keys() - theirs.keys() == {added}
    asked = []
    ready.student.network.register_forward_pre_hook(
        lambda module, args, kwargs: asked.append(kwargs.get("guidance")), with_kwargs=True
    )
    fit(ready, Listeners())
    drawn = torch.cat([w for w in asked[:6] if w is not None])
    assert ((drawn >= 1) & (drawn <= 3)).all()
    assert drawn.unique().numel() > 8
    model = Checkpoint.open(folder / "drawn").denoiser()
    assert model.guidable == Guidable(1.0, 3.0, as_input=True)
    assert model.network.state_dict()[added].abs().max() > 0
    plain, strong = (sample(model, 4, label=3, guidance=w) for w in (1.0, 3.0))
    assert (plain - strong).abs().max() > 1e-4
    assert guided(plan_for(model, 2), model, 3.0).nfe == 2


def test_any_micro_batch_draws_the_same_weights(folder):
    for out, micro in (("whole", 8), ("parts", 2)):
        steady = ("data.label_dropout=0", "network.dropout=0.0", "train.steps=2")
        own = ("network.name=tiny", "network.width=16", "network.patch=1")
        # RAdam's first steps are proportional to the gradient: rounding stays small.
        changes = (*steady, *own, "train.optimizer=radam", f"train.micro_batch={micro}")
        fit(student(folder, DRAWN, *changes, out=out), Listeners())
    whole, parts = weights(folder / "whole"), weights(folder / "parts")
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-3, atol=1e-4)


def test_another_dropout_keeps_the_teachers_weights(folder):
    own = ("network.name=tiny", "network.width=16", "network.patch=1", "network.dropout=0.0")
    ready = student(folder, *own, out="dry")
    theirs = Checkpoint.open(folder / "teacher").weights("ema-0.9999")
    assert all(torch.equal(v, theirs[k]) for k, v in ready.student.network.state_dict().items())


def test_a_fixed_weight_needs_no_input_and_changes_the_student(folder):
    for out, guidance in (("one", 1), ("four", 4)):
        fit(student(folder, f"teacher.guidance={guidance}", out=out), Listeners())
    one, four = weights(folder / "one"), weights(folder / "four")
    assert one.keys() == four.keys() == weights(folder / "teacher").keys()
    assert any(not torch.equal(one[key], four[key]) for key in one)


def test_a_stage_of_progressive_distillation_feeds_its_student_the_weight(folder):
    ready = student(
        folder, DRAWN, "loss.name=pd", "loss.intervals=2", "train.steps=6", out="stages"
    )
    fit(ready, Listeners())
    model = Checkpoint.open(folder / "stages").denoiser()
    assert model.guidable == Guidable(1.0, 3.0, as_input=True)


def test_a_diffusion_model_with_label_dropout_is_guided_when_it_is_sampled(folder, monkeypatch):
    said = []
    request = Request(2, 5, guidance=2.0, out=folder / "guided.npz")
    sample_to_files(folder / "teacher", request, device="cpu", say=said.append)
    assert "NFE 10 (2 heun steps, guidance 2, " in said[-1]
    model = Checkpoint.open(folder / "teacher").denoiser()
    assert (sample(model, 2, 5, guidance=2.0) - sample(model, 2, 5)).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("data.label_dropout=0",), "never trained without classes"),
        (("data.conditional=false", "data.label_dropout=0"), "the model knows no classes"),
        (("loss.name=ct", "denoiser.precond=consistency"), "takes no weight of guidance"),
    ],
)
def test_sampling_refuses_what_was_not_trained(folder, tmp_path, overrides, text):
    job = Job(str(folder / "teacher.toml"), overrides=overrides, out=tmp_path / "other")
    model = plan(job, None, {}, Listeners()).student
    with pytest.raises(RecipeError, match=text):
        sample(model, 1, guidance=2.0)
    assert sample(model, 1, 1, guidance=1.0).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(("weight", "hint"), [(5.0, "3"), (0.5, "1"), (math.nan, "1")])
def test_a_weight_outside_the_trained_range_is_refused(folder, weight, hint):
    model = student(folder, DRAWN, out=f"range{weight}").student
    with pytest.raises(RecipeError, match=r"outside 1 .. 3") as caught:
        sample(model, 1, guidance=weight)
    assert caught.value.hint == f"--guidance {hint}"


def test_a_teacher_without_label_dropout_cannot_guide(folder):
    never = Job(
        str(folder / "teacher.toml"), overrides=("data.label_dropout=0",), out=folder / "never"
    )
    fit(plan(never, None, {}, Listeners()), Listeners())
    for guidance in ("2", "[1, 3]"):
        with pytest.raises(RecipeError, match=r"never was \(data.label_dropout = 0\)"):
            student(folder, f"teacher.guidance={guidance}", out="x", teacher="never")


def test_training_from_data_has_nobody_to_guide(folder):
    job = Job(str(folder / "teacher.toml"), overrides=("teacher.guidance=2",), out=folder / "y")
    with pytest.raises(RecipeError, match=r"teacher.guidance needs a teacher model"):
        plan(job, None, {}, Listeners())


@pytest.mark.parametrize("bad", ["[3, 1]", "[-1, 2]", "[1]", "-1", "true", "[1, 2, 3]", "[2, 2]"])
def test_recipes_refuse_what_is_no_weight_or_range(bad):
    with pytest.raises(RecipeError, match="guidance"):
        recipe.parse(STUDENT, "r.toml", [f"teacher.guidance={bad}"])


def test_recipes_keep_a_range():
    made = recipe.parse(STUDENT, "r.toml", [DRAWN])
    assert made.teacher.guidance == (1.0, 3.0)
    assert recipe.parse(recipe.dump(made), "again") == made
