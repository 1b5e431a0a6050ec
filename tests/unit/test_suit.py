"""A recipe on data that it was not written for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmtool import checkpoint, images
from cmtool.checkpoint import Checkpoint
from cmtool.errors import CheckpointError, DeviceError, RecipeError
from cmtool.foreign import openai
from cmtool.networks.adm import Adm
from cmtool.settings import TrainSettings
from cmtool.workflows import distill
from cmtool.workflows._job import choose_recipe
from cmtool.workflows._machine import resolve
from cmtool.workflows.fit import Job, Listeners, fit
from cmtool.workflows.load import open_model
from cmtool.workflows.train import plan


@pytest.fixture
def photos(tmp_path):
    """Eight 32x32 pictures without classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        images.save_png(tmp_path / "photos" / f"{i}.png", picture)
    return tmp_path / "photos"


def prepared(data, tmp_path, *overrides, recipe=None):
    said = []
    job = Job(recipe, str(data), overrides=(*overrides, "network.width=32"), out=tmp_path / "run")
    return plan(job, None, {}, Listeners(said.append)), said


def test_photos_without_classes_train_an_unconditional_model(photos, tmp_path):
    ready, said = prepared(photos, tmp_path)
    assert ready.student.num_classes == 0
    assert not ready.recipe.data.conditional
    assert ready.recipe.data.flip
    assert any("has no classes" in line for line in said)


def test_classes_that_were_asked_for_must_be_there(photos, tmp_path):
    with pytest.raises(RecipeError, match="has no classes"):
        prepared(photos, tmp_path, "data.conditional=true")


def test_digits_are_not_mirrored_by_a_recipe_for_photographs(tmp_path):
    recipe = "cifar10-cpu/dsm"
    ready, said = prepared("digits", tmp_path, recipe=recipe)
    assert not ready.recipe.data.flip
    assert any("not mirrored" in line for line in said)
    ready, said = prepared("digits", tmp_path, "data.flip=true", recipe=recipe)
    assert ready.recipe.data.flip
    assert any("mirrors" in line for line in said)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    ("data", "method", "on_cpu", "on_gpu", "published"),
    [
        ("digits", "ect", "digits/ect", "digits/ect", None),
        ("mnist", "dsm", "mnist-cpu/dsm", "mnist-cpu/dsm", None),
        ("mnist", "ect", "cifar10-cpu/ect", "cifar10/ect", "cifar10/ect"),
        ("cifar10", "cd", "cifar10-cpu/cd", "cifar10/cd", "cifar10/cd"),
        ("imagenet64", "dsm", "cifar10-cpu/dsm", "imagenet64/dsm", "imagenet64/dsm"),
        ("imagenet64", "cd", "cifar10-cpu/cd", "cifar10/cd", None),
        ("lsun-cat", "ct", "cifar10-cpu/ct", "lsun256/ct", "lsun256/ct"),
        ("photos/", "dsm", "cifar10-cpu/dsm", "cifar10/dsm", "cifar10/dsm"),
    ],
)
def test_without_a_name_the_recipe_suits_data_and_machine(
    data, method, on_cpu, on_gpu, published, gpu, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    said = []
    wanted = on_gpu if gpu else on_cpu
    assert choose_recipe(Job(data=data), method, said.append) == wanted
    hints = [line.split("give ")[1] for line in said if "published settings" in line]
    assert hints == ([f"{published} as RECIPE"] if published and not gpu else [])


def test_a_student_sees_its_teachers_crops(tmp_path):
    """Pictures that are not square: --set data.image_size and data.crop are given once."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 24, 40, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        images.save_png(tmp_path / "wide" / f"{i}.png", picture)
    small = ("network.width=32", "train.steps=1", "train.batch_size=2")
    chosen = ("data.image_size=16", "data.crop=center", *small)
    job = Job(None, str(tmp_path / "wide"), overrides=chosen, out=tmp_path / "teacher")
    fit(plan(job, None, {}, Listeners()), Listeners())
    job = Job(None, str(tmp_path / "wide"), overrides=small[1:], out=tmp_path / "student")
    one = Checkpoint.open(tmp_path / "teacher")
    checkpoint.write_file(
        tmp_path / "one.pt", one.meta, one.recipe, one.denoiser("ema").network.state_dict()
    )
    for teacher in ("teacher", "one.pt"):
        ready = distill.plan(job, tmp_path / teacher, {}, Listeners())
        assert ready.data.image_shape == (3, 16, 16)
        assert ready.recipe.data.crop == "center"
    with pytest.raises(RecipeError, match="a student has its teacher's"):
        distill.plan(
            replace(job, overrides=("denoiser.sigma_data=1.0",)),
            tmp_path / "teacher",
            {},
            Listeners(),
        )


def test_a_teacher_of_classes_wants_images_of_classes(tmp_path):
    """Its student would draw classes that it was never shown."""
    for i in range(4):
        images.save_png(tmp_path / "my digits" / f"{i}.png", np.full((8, 8, 1), i, np.uint8))
    teacher = Path("shipped/digits-teacher")
    job = Job("digits/cd", str(tmp_path / "my digits"), out=tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"the teacher has 10 classes, .* has 0") as no:
        distill.plan(job, teacher, {}, Listeners())
    assert no.value.hint == (
        "a sub-folder of images for each class, or a teacher without: "
        f"cmtool train --data '{tmp_path}/my digits'"
    )
    job = Job("digits/cd", overrides=("data.conditional=false",), out=tmp_path / "run")
    with pytest.raises(RecipeError, match="a student has its teacher's classes"):
        distill.plan(job, teacher, {}, Listeners())


def test_a_teacher_that_cannot_guide_is_not_guided_unless_asked(photos, tmp_path):
    small = ("network.width=32", "train.steps=1", "train.batch_size=2")
    job = Job(None, str(photos), overrides=small, out=tmp_path / "teacher")
    fit(plan(job, None, {}, Listeners()), Listeners())
    guided = tmp_path / "guided.toml"
    guided.write_text('[loss]\nname = "cd"\n[teacher]\nguidance = 3.0\n')
    said = []
    job = Job(str(guided), str(photos), overrides=small[1:], out=tmp_path / "student")
    ready = distill.plan(job, tmp_path / "teacher", {}, Listeners(said.append))
    assert ready.recipe.teacher.guidance == 1.0
    assert any("teacher.guidance = 3.0 is left out" in line for line in said)
    asked = replace(job, overrides=("teacher.guidance=3.0", *small[1:]))
    with pytest.raises(RecipeError, match=r"teacher.guidance needs a teacher with classes"):
        distill.plan(asked, tmp_path / "teacher", {}, Listeners())


def test_weights_start_only_where_they_mean_the_same(photos, tmp_path):
    small = ("network.width=32", "train.steps=1", "train.batch_size=2")
    job = Job(None, str(photos), overrides=small, out=tmp_path / "first")
    fit(plan(job, None, {}, Listeners()), Listeners())
    other = (*small, "denoiser.noise_scale=250.0")
    with pytest.raises(RecipeError, match=r"trained with denoiser.noise_scale = 0.25"):
        plan(
            replace(job, overrides=other, out=tmp_path / "second"),
            tmp_path / "first",
            {},
            Listeners(),
        )


def test_a_training_device_has_no_index():
    with pytest.raises(DeviceError, match="--device cuda:1"):
        resolve(TrainSettings(), torch.device("cuda:1"), print)


@pytest.mark.parametrize(
    ("key", "value"), [("head_channels", "16"), ("flavor", "edm"), ("norm_groups", "16")]
)
def test_weights_start_nothing_that_would_read_them_otherwise(tmp_path, key, value):
    """The shapes are the same, so only the keys tell."""
    spec = Adm(channels=32, channel_mult=(1, 1), blocks=1, attention=(4,), head_channels=32)
    theirs = openai.to_theirs(spec.build(8, 1, 0).state_dict(), spec, 8, 1, 0)
    torch.save(theirs, tmp_path / "published.pt")
    recipe = tmp_path / "same.toml"
    recipe.write_text(
        '[network]\nname = "adm"\nchannels = 32\nchannel_mult = [1, 1]\nblocks = 1\n'
        "attention = [4]\nhead_channels = 32\n[denoiser]\nnoise_scale = 250\n"
        '[loss]\nname = "dsm"\n'
    )
    facts = {"image_size": 8, "head_channels": 32}

    def start(*more):
        job = Job(str(recipe), "digits", overrides=more, out=tmp_path / "run")
        return plan(job, tmp_path / "published.pt", facts, Listeners())

    kept = start().student.network.state_dict()
    assert torch.equal(kept["stem.weight"], theirs["input_blocks.0.0.weight"])
    with pytest.raises(RecipeError, match=f"published.pt was trained with network.{key} = ") as no:
        start(f"network.{key}={value}")
    assert no.value.hint == f"drop --set network.{key}"


def test_a_student_takes_network_and_scalings_of_the_model_that_it_starts_from(tmp_path):
    """And leaves out classes that its images do not have: it answers as the model without one."""
    for i in range(4):
        images.save_png(tmp_path / "grey" / f"{i}.png", np.full((8, 8, 1), i, np.uint8))
    said, init = [], Path("shipped/digits-teacher")
    job = Job("cifar10-cpu/dsm", str(tmp_path / "grey"), out=tmp_path / "run")
    ready = plan(job, init, {}, Listeners(said.append))
    start = open_model(init)
    assert ready.recipe.network == start.recipe.network
    assert ready.recipe.denoiser.sigma_data == start.recipe.denoiser.sigma_data == 0.75
    assert (ready.student.num_classes, start.denoiser.num_classes) == (0, 10)
    x, c_noise = torch.randn(3, 1, 8, 8), torch.tensor([-1.0, 0.0, 1.0])
    student, model = ready.student.network.eval(), start.denoiser.network
    assert torch.equal(student(x, c_noise), model(x, c_noise))
    notes = "\n".join(line for line in said if line.startswith("note"))
    assert "[network] is that of shipped/digits-teacher" in notes
    assert "denoiser.sigma_data = 0.75" in notes
    assert "classes is left out" in notes
    with pytest.raises(RecipeError, match=r"trained with network.width = 96") as no:
        plan(replace(job, overrides=("network.width=32",)), init, {}, Listeners())
    assert no.value.hint == "drop --set network.width"


def test_a_student_may_start_from_an_earlier_one_and_a_dry_run_takes_any_folder(photos, tmp_path):
    small = ("network.width=32", "train.steps=1", "train.batch_size=2")
    teacher, first = tmp_path / "teacher", tmp_path / "first"
    fit(
        plan(Job(None, str(photos), overrides=small, out=teacher), None, {}, Listeners()),
        Listeners(),
    )
    job = Job(None, str(photos), overrides=(*small[1:], "train.lr=0.1"), out=first)
    done = distill.plan(job, teacher, {}, Listeners())
    fit(done, Listeners())
    with pytest.raises(CheckpointError, match="is there already"):
        distill.plan(job, teacher, {}, Listeners())
    dry = distill.plan(replace(job, dry_run=True), teacher, {}, Listeners())
    again = replace(job, out=tmp_path / "second")
    after = distill.plan(again, teacher, {}, Listeners(), init=first)

    def weights(ready):
        return torch.cat([p.flatten() for p in ready.student.network.parameters()])

    average = open_model(first).denoiser.network
    assert torch.equal(weights(after), torch.cat([p.flatten() for p in average.parameters()]))
    assert not torch.equal(weights(after), weights(dry))
