"""From a request to a recipe: a batch smaller than the recipe's, and the rate that suits it."""

import math
from pathlib import Path

import pytest

from cmtool.errors import RecipeError
from cmtool.workflows import distill, train
from cmtool.workflows._job import Job, load_recipe
from cmtool.workflows.fit import Listeners

RECIPE = '[loss]\nname = "ct"\n\n[train]\nbatch_size = 512\nlr = 4e-4\n'


@pytest.fixture
def loaded(tmp_path):
    """Loads the recipe with overrides; gives it and what was said."""
    (tmp_path / "r.toml").write_text(RECIPE)

    def load(*overrides):
        said = []
        made = load_recipe(Job(str(tmp_path / "r.toml"), overrides=overrides), "dsm", said.append)
        return made.train, "\n".join(said)

    return load


@pytest.mark.parametrize("override", ["train.batch_size=32", ("train.batch_size", 32)])
def test_a_smaller_batch_lowers_the_rate_by_the_square_root(loaded, override):
    train, said = loaded(override)
    assert train.batch_size == 32
    assert train.lr == pytest.approx(4e-4 * math.sqrt(32 / 512))
    assert "batch 32 is 1/16 of the recipe's 512: lr 0.0004 -> 0.0001" in said
    assert "square root" in said
    assert "train.scale_lr=false" in said


def test_the_last_of_several_batch_sizes_counts(loaded):
    train, _ = loaded("train.batch_size=8", ("train.batch_size", 128))
    assert train.lr == pytest.approx(2e-4)


@pytest.mark.parametrize("batch", [512, 1024])
def test_an_equal_or_larger_batch_changes_nothing(loaded, batch):
    train, said = loaded(f"train.batch_size={batch}")
    assert (train.lr, train.batch_size, said) == (4e-4, batch, "")


@pytest.mark.parametrize(
    ("other", "lr"), [("train.lr=3e-4", 3e-4), ("train.scale_lr = false", 4e-4)]
)
def test_the_users_own_choice_stands_but_the_batch_is_named(loaded, other, lr):
    train, said = loaded("train.batch_size=128", other)
    assert train.lr == lr
    assert said == f"batch 128 is 1/4 of the recipe's 512; lr stays {lr:g} as asked"


def test_nothing_is_said_without_overrides(loaded):
    train, said = loaded()
    assert (train.lr, said) == (4e-4, "")


def test_dry_run_prints_the_line_and_the_rate(capfd, monkeypatch):
    from cmtool.cli import main

    monkeypatch.setattr("sys.argv", ["cmtool", "train", "digits/dsm", "--batch-size=16", "-n"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    out, err = capfd.readouterr()
    assert "of the recipe's" in err
    assert "batch_size = 16  # --set" in out


def test_a_run_is_named_by_data_and_method_as_they_are_typed():
    prepared = train.plan(Job("digits/ct-continuous"), None, {}, Listeners())
    assert prepared.out == Path("runs/digits-ct-continuous")


def test_a_hint_names_the_method_as_it_is_typed():
    with pytest.raises(RecipeError, match="loss 'cd-continuous' needs a teacher") as told:
        train.plan(Job("digits/cd-continuous"), None, {}, Listeners())
    assert "--method cd-continuous" in told.value.hint
    with pytest.raises(RecipeError, match="'ct-continuous' learns from data alone") as told:
        distill.plan(Job("digits/ct-continuous"), Path("none"), {}, Listeners())
    assert told.value.hint == "cmtool train --method ct-continuous"
