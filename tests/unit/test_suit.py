"""A recipe on data that it was not written for."""

import numpy as np
import pytest

from cmtool import images
from cmtool.errors import RecipeError
from cmtool.workflows.fit import Job, Listeners
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
