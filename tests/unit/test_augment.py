"""EDM's augmentations: every transform against a case done by hand, labels, shares and splits."""

import math

import pytest
import torch

from cmtool.augment import LABELS, Moves, augment, draw, labels, transform
from cmtool.checkpoint import Checkpoint
from cmtool.errors import RecipeError
from cmtool.rng import StepRng
from cmtool.workflows.fit import Job, Listeners, fit
from cmtool.workflows.sample import sample
from cmtool.workflows.train import plan

SIZE = 17
C = SIZE // 2
PIXEL = 8 / SIZE  # A move by one pixel.


@pytest.fixture
def x():
    return torch.rand(1, 2, SIZE, SIZE) * 2 - 1


def moves(n=1, **given):
    zeros = {name: torch.zeros(n) for name in Moves._fields}
    return Moves(**zeros | {name: torch.full((n,), float(v)) for name, v in given.items()})


def rng(n, rows=None, seed=0):
    return StepRng(seed, 0, n, rows or slice(0, n))


def test_probability_zero_is_the_identity_with_zero_labels():
    x = torch.randn(50, 3, 8, 8)
    out, told = augment(x, 0.0, rng(50))
    assert torch.equal(out, x)
    assert torch.equal(told, torch.zeros(50, LABELS))


def test_no_moves_change_no_bit(x):
    assert torch.equal(transform(x, moves()), x)


def test_mirrors_are_exact(x):
    assert torch.equal(transform(x, moves(mirror_x=1)), x.flip(-1))
    assert torch.equal(transform(x, moves(mirror_y=1)), x.flip(-2))


def test_whole_pixels_move_exactly_and_the_border_mirrors(x):
    out = transform(x, moves(right=PIXEL, down=-2 * PIXEL))
    torch.testing.assert_close(out[..., :-2, 1:], x[..., 2:, :-1], rtol=0, atol=1e-5)
    torch.testing.assert_close(out[..., :-2, 0], x[..., 2:, 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(out[..., -1, 1:], x[..., -3, :-1], rtol=0, atol=1e-5)


def test_one_unit_moves_by_an_eighth_of_the_side():
    x = torch.rand(1, 1, 16, 16)
    out = transform(x, moves(down=1))
    torch.testing.assert_close(out[..., 2:, :], x[..., :-2, :], rtol=0, atol=1e-5)


def test_a_quarter_turn_is_counterclockwise(x):
    out = transform(x, moves(turn=math.pi / 2))
    torch.testing.assert_close(out, torch.rot90(x, 1, (-2, -1)), rtol=0, atol=1e-5)


def test_five_units_of_scale_double_the_size(x):
    out = transform(x, moves(scale=5))
    k = torch.arange(-4, 5)
    torch.testing.assert_close(
        out[0, :, C + 2 * k][:, :, C + 2 * k], x[0, :, C + k][:, :, C + k], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("axis", [0.0, math.pi / 2])
def test_stretch_doubles_along_the_axis_and_halves_across(x, axis):
    out = transform(x, moves(stretch=5, axis=axis))
    if axis:
        x, out = x.mT, out.mT
    k = torch.arange(-4, 5)
    torch.testing.assert_close(out[0, :, C, C + 2 * k], x[0, :, C, C + k], rtol=0, atol=1e-5)
    torch.testing.assert_close(out[0, :, C + k, C], x[0, :, C + 2 * k, C], rtol=0, atol=1e-5)


def test_the_axis_turns_counterclockwise(x):
    out = transform(x, moves(stretch=5, axis=math.pi / 4))
    k = torch.arange(-4, 5)
    torch.testing.assert_close(out[0, :, C - 2 * k, C + 2 * k], x[0, :, C - k, C + k])


def test_order_is_mirror_scale_turn_stretch_move(x):
    """With the moves one after the other, each of which falls on whole pixels."""
    k = torch.arange(-3, 4)
    quarter = {"turn": math.pi / 2}
    out = transform(x, moves(mirror_x=1, stretch=5, right=PIXEL, **quarter))
    turned = torch.rot90(x.flip(-1), 1, (-2, -1))
    torch.testing.assert_close(out[0, :, C, C + 2 * k + 1], turned[0, :, C, C + k])
    out = transform(x, moves(scale=5, right=PIXEL))
    torch.testing.assert_close(out[0, :, C, C + 2 * k + 1], x[0, :, C, C + k])


def test_labels_in_the_documented_order():
    told = labels(
        moves(mirror_x=1, mirror_y=1, scale=2, turn=0.3, stretch=0.5, axis=0.7, right=-1, down=3)
    )
    expected = [1, 1, 2, math.cos(0.3) - 1, math.sin(0.3)]
    expected += [0.5 * math.cos(0.7), 0.5 * math.sin(0.7), -1, 3]
    torch.testing.assert_close(told, torch.tensor([expected]))
    assert told.shape[1] == LABELS


def test_shares_and_spreads_are_those_of_the_paper():
    n, p = 40_000, 0.12
    drawn = draw(p, rng(n))
    told = labels(drawn)
    touched = (told != 0).float().mean(0)
    shares = torch.tensor([0.5, p / 2, *(p,) * 7])
    assert ((touched - shares).abs() < 4 * (shares * (1 - shares) / n).sqrt()).all()
    for name, std in {"scale": 1.0, "stretch": 1.0, "right": 1.0, "down": 1.0}.items():
        values = getattr(drawn, name)
        assert values[values != 0].std() == pytest.approx(std, rel=0.05)
    for angle in (drawn.turn, drawn.axis):
        assert angle.abs().max() <= math.pi
        assert angle[angle != 0].std() == pytest.approx(math.pi / math.sqrt(3), rel=0.05)
    both = (drawn.scale != 0) & (drawn.turn != 0)
    assert both.float().mean() == pytest.approx(p * p, rel=0.2)


def test_any_split_of_a_batch_is_augmented_the_same():
    x = torch.rand(12, 1, 8, 8)
    whole = augment(x, 0.5, rng(12))
    parts = [augment(x[r], 0.5, rng(12, r)) for r in (slice(0, 3), slice(3, 8), slice(8, 12))]
    for together, apart in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(apart), together, rtol=0, atol=1e-6)


def test_autocast_does_not_blur_the_geometry(x):
    turned = moves(turn=0.3, right=0.4)
    with torch.autocast("cpu", torch.bfloat16):
        rough = transform(x, turned)
    assert torch.equal(rough, transform(x, turned))


# In training.

RECIPE = """
[network]
name = "ddpmpp"
channels = 16
channel_mult = [1]
blocks = 1
augment_dim = 9

[loss]
name = "dsm"

[data]
name = "digits"
augment = 0.5

[train]
steps = 4
batch_size = 8
lr = 1e-2
optimizer = "adam"
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)

    def make(*overrides, out="run"):
        return Job(str(tmp_path / "r.toml"), overrides=overrides, out=tmp_path / out)

    return make


def weights(path):
    return Checkpoint.open(path).weights("student")


def test_training_tells_the_network_and_any_micro_batch_gives_the_same(job, tmp_path):
    for out, micro in (("whole", 8), ("parts", 2)):
        made = job(f"train.micro_batch={micro}", out=out)
        fit(plan(made, None, {}, Listeners()), Listeners())
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-3, atol=1e-4)
    fit(plan(job("data.augment=0", out="off"), None, {}, Listeners()), Listeners())
    name = "embedding.augment.weight"
    assert (weights(tmp_path / "off")[name] - whole[name]).abs().max() > 1e-5
    drawn = sample(Checkpoint.open(tmp_path / "whole").denoiser(), 2, steps=3)
    assert drawn.isfinite().all()


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("network.augment_dim=0", "--set network.augment_dim=9, or data.augment=0"),
        ("network.augment_dim=3", "--set network.augment_dim=9, or data.augment=0"),
        ("network.name=tiny", "--set data.augment=0"),
    ],
)
def test_a_network_that_is_not_told_is_refused(tmp_path, job, override, hint):
    if "tiny" in override:
        rest = RECIPE[RECIPE.index("[loss]") :]
        (tmp_path / "r.toml").write_text('[network]\nname = "tiny"\n' + rest)
        override = "train.steps=1"
    with pytest.raises(RecipeError, match=r"data.augment = 0.5, but network is not told") as caught:
        plan(job(override), None, {}, Listeners())
    assert caught.value.hint == hint


def test_a_teacher_that_was_not_told_is_refused(tmp_path, job):
    from cmtool.workflows.distill import plan as distill

    off = ("network.augment_dim=0", "data.augment=0")
    fit(plan(job(*off, out="teacher"), None, {}, Listeners()), Listeners())
    made = job("loss.name=cd", out="student")
    with pytest.raises(RecipeError, match="the teacher's network is not told") as caught:
        distill(made, tmp_path / "teacher", {}, Listeners())
    assert caught.value.hint == "--set data.augment=0"


def test_teacher_and_student_are_both_told(tmp_path, job):
    from cmtool.workflows.distill import plan as distill

    fit(plan(job(out="teacher"), None, {}, Listeners()), Listeners())
    ready = distill(job("loss.name=cd", out="student"), tmp_path / "teacher", {}, Listeners())
    seen = {"student": [], "teacher": []}
    for who, model in (("student", ready.student), ("teacher", ready.teacher.denoiser)):
        model.network.register_forward_pre_hook(
            lambda module, args, kwargs, to=seen[who]: to.append(kwargs.get("augment")),
            with_kwargs=True,
        )
    fit(ready, Listeners())
    assert len(seen["student"]) >= 2
    assert len(seen["teacher"]) >= 2
    assert torch.equal(seen["student"][0], seen["teacher"][0])
    assert (seen["student"][0] != 0).any()
