"""Every recipe that comes with cmtool: it loads, says where it is from, and states what it should.

python tests/test_recipes.py --write        renews the table in recipes/README.md
"""

import dataclasses
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cmtool import recipe as recipes
from cmtool import registry

ROOT = Path(__file__).parent.parent
README = ROOT / "recipes" / "README.md"
OPEN, CLOSE = "<!-- table of recipes -->", "<!-- end of the table -->"
NAMES = recipes.names()
SHAPES = {
    "cifar10": ((32, 3), 10),
    "mnist": ((28, 1), 10),
    "imagenet64": ((64, 3), 1000),
    "lsun-bedroom": ((256, 3), 0),
    "digits": ((8, 1), 10),
}


def sections(name):
    return tomllib.loads((ROOT / "recipes" / f"{name}.toml").read_text())


def table():
    """The rows of README's table, from the headers."""
    rows = ["| recipe | what, and where its numbers are from | hardware | published | ours |"]
    rows.append("|---|---|---|---|---|")
    for name in NAMES:
        head = recipes.header(name)
        published, _, ours = head.expect.rpartition("Ours:")
        what = f"{head.title} {head.source}"
        cells = (f"`{name}`", what, head.hardware, published.strip() or "-", ours.strip())
        assert not any("|" in cell for cell in cells)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def renewed():
    """README with the table as it should be."""
    text = README.read_text()
    before, rest = text.split(OPEN)
    _, after = rest.split(CLOSE)
    return f"{before}{OPEN}\n{table()}\n{CLOSE}{after}"


def test_the_table_is_that_of_the_headers():
    assert README.read_text() == renewed(), "python tests/test_recipes.py --write"


def test_no_recipe_is_ignored_by_git():
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "recipes/*.toml"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    assert sorted(done.stdout.split()) == sorted(f"recipes/{name}.toml" for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_its_network_fits_its_data(name):
    import torch

    recipe = recipes.load(name)
    if recipe.network is not None:
        (size, channels), classes = SHAPES[recipe.data.name]
        with torch.device("meta"):
            recipe.network.build(size, channels, classes if recipe.data.conditional else 0)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_dumped_and_read_back_the_same(name):
    recipe = recipes.load(name)
    assert recipes.parse(recipes.dump(recipe), "again") == recipe


@pytest.mark.parametrize("name", NAMES)
def test_its_command_is_one(name):
    """Parsed as the command line would, without running it."""
    from typer.main import get_command

    from cmtool.cli import app

    words = shlex.split(recipes.header(name).command)
    if words[0] == "accelerate":
        assert words[:4] == ["accelerate", "launch", "-m", "cmtool"]
        words = words[3:]
    assert words[0] == "cmtool"
    group = get_command(app)
    loss = recipes.load(name).loss
    assert words[1] == ("distill" if loss.needs_teacher_model else "train")
    parsed = group.commands[words[1]].make_context(words[1], words[2:])
    assert parsed.params["recipe"] == name
    assert (parsed.params.get("teacher") is not None) == loss.needs_teacher_model


@pytest.mark.parametrize("name", NAMES)
def test_it_states_only_what_differs_from_the_defaults(name):
    for section, given in sections(name).items():
        if section in recipes._KINDS:
            cls = registry.load(recipes._KINDS[section], given.get("name", "karras"))
        else:
            cls = recipes._SETTINGS[section]
        defaults = {f.name: f.default for f in dataclasses.fields(cls)}
        for key, value in given.items():
            value = tuple(value) if isinstance(value, list) else value
            worth_reading = key in ("name", "steps", "batch_size")
            assert worth_reading or defaults[key] != value, f"{section}.{key}"


def test_every_method_has_a_published_recipe():
    have = {type(recipes.load(name).loss) for name in NAMES if name.startswith("cifar10/")}
    wanted = {registry.load("losses", name) for name in registry.names("losses")}
    assert wanted <= have


def test_networks_have_the_published_number_of_weights():
    import torch

    counts = {}
    for name in ("imagenet64/dsm", "lsun256/dsm", "cifar10/dsm"):
        recipe = recipes.load(name)
        (size, channels), classes = SHAPES[recipe.data.name]
        with torch.device("meta"):
            network = recipe.network.build(
                size, channels, classes if recipe.data.conditional else 0
            )
        counts[name] = sum(p.numel() for p in network.parameters())
    assert counts["imagenet64/dsm"] == 295_899_267
    assert counts["lsun256/dsm"] == 526_304_771


OPENAI = (0.9999432189950708, 0.9999, 0.999)
OPENAI_LSUN = (0.9999432189950708, 0.99994, 0.9999)
PUBLISHED = {
    "imagenet64/sct": {
        "sampling": {"times": (80.0, 0.9824)},
    },
    "imagenet64/ict": {
        "sampling": {"times": (80.0, 1.526)},
    },
    "cifar10/dsm": {
        "network": {"channels": 128, "channel_mult": (2, 2, 2), "blocks": 4, "dropout": 0.13},
        "loss": {"p_mean": -1.2, "p_std": 1.2},
        "data": {"augment": 0.12, "flip": False},
        "train": {"batch_size": 512, "lr": 1e-3, "optimizer": "adam", "steps": 390_625},
    },
    "cifar10/dsm-ncsnpp": {
        "network": {"channels": 128, "blocks": 4, "fourier_scale": 16.0, "dropout": 0.13},
        "train": {"batch_size": 512, "lr": 1e-3, "lr_warmup": 19_531},
    },
    "cifar10/cd-l1": {
        "loss": {"distance": "l1", "levels": 18, "decay": 0.0, "weighting": "uniform"},
        "train": {"batch_size": 512, "lr": 2e-4, "steps": 800_000, "ema": (0.9999,)},
    },
    "cifar10/cd-l2": {
        "loss": {"distance": "l2", "levels": 18, "decay": 0.0},
        "train": {"batch_size": 512, "lr": 4e-4, "steps": 800_000, "optimizer": "radam"},
    },
    "cifar10/cd-lpips": {
        "sampling": {"times": (80.0, 0.5853)},
        "network": {"dropout": 0.0, "blocks": 4},
        "loss": {"distance": "lpips-vgg", "levels": 18, "decay": 0.0},
        "train": {"batch_size": 512, "lr": 4e-4, "steps": 800_000, "betas": (0.9, 0.999)},
    },
    "cifar10/ct-lpips": {
        "loss": {"levels_min": 2, "levels_max": 150, "decay": 0.9, "form": "openai"},
        "train": {"batch_size": 512, "lr": 4e-4, "steps": 800_000, "ema": (0.9999,)},
    },
    "cifar10/ict": {
        "sampling": {"times": (80.0, 0.821)},
        "loss": {"levels_min": 10, "levels_max": 1280, "p_mean": -1.1, "p_std": 2.0},
        "train": {"batch_size": 1024, "lr": 1e-4, "steps": 400_000, "optimizer": "radam"},
    },
    "cifar10/ict-deep": {
        "sampling": {"times": (80.0, 0.821)},
        "network": {"blocks": 8},
    },
    "cifar10/ect": {
        "sampling": {"times": (80.0, 0.821)},
        "network": {"dropout": 0.2},
        "denoiser": {"precond": "edm"},
        "loss": {"q": 2.0, "stages": 8, "huber_c": 0.0, "k": 8.0, "b": 1.0, "p_mean": -1.1},
        "train": {"batch_size": 128, "lr": 1e-4, "steps": 200_000, "ema": (0.9999,)},
    },
    "cifar10/ect-1h": {
        "sampling": {"times": (80.0, 0.821)},
        "loss": {"q": 256.0, "stages": 1},
        "train": {"batch_size": 128, "steps": 8000, "ema": (0.9993,)},
    },
    "cifar10/cd-continuous": {
        "network": {"dropout": 0.3},
        "loss": {"distance": "l2", "stop_gradient": True, "form": "openai"},
        "train": {"batch_size": 512, "lr": 5e-6, "steps": 400_000, "ema": (0.9999,)},
    },
    "cifar10/ct-continuous": {
        "loss": {"distance": "l2", "stop_gradient": True, "form": "openai"},
        "train": {"batch_size": 512, "lr": 5e-6, "steps": 800_000},
    },
    "cifar10/pd": {
        "loss": {"intervals": 4096, "weighting": "truncated-snr", "distance": "l2"},
        "train": {"batch_size": 512, "lr": 5e-5, "optimizer": "adam", "grad_clip": 1.0},
    },
    "cifar10/scd": {
        "sampling": {"times": (80.0, 0.9824)},
        "network": {"dropout": 0.0},
        "loss": {"p_mean": -1.0, "p_std": 1.4, "tangent_warmup": 10_000, "norm_c": 0.1},
        "train": {"batch_size": 512, "lr": 1e-4, "steps": 500_000, "betas": (0.9, 0.99)},
    },
    "cifar10/sct": {
        "sampling": {"times": (80.0, 0.9824)},
        "network": {"dropout": 0.2},
        "loss": {"p_mean": -1.0, "p_std": 1.4, "tangent_warmup": 10_000, "norm": "rms"},
        "train": {"batch_size": 512, "steps": 350_000, "ema": (0.9999, 0.99995, 0.9996)},
    },
    "imagenet64/dsm": {
        "network": {"channels": 192, "channel_mult": (1, 2, 3, 4), "blocks": 3, "dropout": 0.1},
        "denoiser": {"noise_scale": 250.0},
        "data": {"conditional": True},
        "train": {"batch_size": 4096, "lr": 1e-4, "ema": OPENAI, "optimizer": "radam"},
    },
    "imagenet64/cd-l2": {
        "sampling": {"times": (80.0, 1.3824)},
        "loss": {"distance": "l2", "levels": 40, "decay": 0.95, "weighting": "uniform"},
        "train": {"batch_size": 2048, "lr": 8e-6, "steps": 600_000, "ema": OPENAI},
    },
    "imagenet64/cd-lpips": {
        "sampling": {"times": (80.0, 1.3824)},
        "network": {"dropout": 0.0},
        "loss": {"distance": "lpips-vgg-avg", "levels": 40, "decay": 0.95},
        "train": {"batch_size": 2048, "lr": 8e-6, "steps": 600_000},
    },
    "imagenet64/ct": {
        "sampling": {"times": (80.0, 1.9128)},
        "loss": {"levels_min": 2, "levels_max": 200, "decay": 0.95, "form": "openai"},
        "train": {"batch_size": 2048, "lr": 1e-4, "steps": 800_000},
    },
    "imagenet64/ect": {
        "sampling": {"times": (80.0, 1.526)},
        "loss": {"huber_c": 0.06, "weighting": "karras", "q": 4.0, "stages": 4, "p_mean": -0.8},
        "train": {"batch_size": 128, "steps": 100_000, "lr_decay_steps": 2000},
    },
    "imagenet64/scd": {
        "sampling": {"times": (80.0, 0.9824)},
        "loss": {"p_mean": -1.0, "p_std": 1.6},
        "train": {"batch_size": 1024, "lr": 7e-5, "steps": 600_000, "grad_clip": 10.0},
    },
    "lsun256/dsm": {
        "network": {"channels": 256, "channel_mult": (1, 1, 2, 2, 4, 4), "scale_shift": False},
        "train": {"batch_size": 256, "lr": 1e-4},
    },
    "lsun256/cd-l2": {
        "sampling": {"times": (80.0, 3.5197)},
        "loss": {"distance": "l2", "levels": 40, "decay": 0.95},
        "train": {"batch_size": 256, "lr": 1e-5, "steps": 600_000, "ema": OPENAI_LSUN},
    },
    "lsun256/cd-lpips": {
        "sampling": {"times": (80.0, 4.3656)},
        "loss": {"distance": "lpips-vgg-avg", "levels": 40, "decay": 0.95},
        "train": {"batch_size": 256, "lr": 1e-5, "steps": 600_000},
    },
    "lsun256/ct": {
        "sampling": {"times": (80.0, 3.9912)},
        "loss": {"levels_min": 2, "levels_max": 150, "decay": 0.95, "form": "openai"},
        "train": {"batch_size": 256, "lr": 5e-5, "steps": 1_000_000},
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_has_the_published_numbers(name):
    recipe = recipes.load(name)
    for section, values in PUBLISHED[name].items():
        for key, value in values.items():
            assert getattr(getattr(recipe, section), key) == value, f"{section}.{key}"
    assert recipe.schedule == registry.load("schedules", "karras")()
    assert (recipe.schedule.sigma_min, recipe.schedule.sigma_max) == (0.002, 80.0)


def test_averages_have_the_published_half_lives():
    edm, openai = recipes.load("cifar10/dsm").train, recipes.load("imagenet64/dsm").train
    assert edm.ema[0] == pytest.approx(0.5 ** (edm.batch_size / 0.5e6), abs=1e-6)
    assert openai.ema[0] == pytest.approx(0.5 ** (openai.batch_size / 50e6), abs=1e-12)


def test_students_have_their_starting_models_weights():
    """A recipe that starts from another's model builds the same weights."""
    import torch

    starts = {
        "cifar10/cd-l1": "cifar10/dsm-ncsnpp",
        "cifar10/cd-lpips": "cifar10/dsm-ncsnpp",
        "cifar10/cd-continuous": "cifar10/dsm-ncsnpp",
        "cifar10/ct-continuous": "cifar10/dsm-ncsnpp",
        "cifar10/ect": "cifar10/dsm",
        "cifar10/ect-1h": "cifar10/dsm",
        "cifar10/scd": "cifar10/dsm",
        "cifar10/pd": "cifar10/dsm-ncsnpp",
        "imagenet64/cd-l2": "imagenet64/dsm",
        "imagenet64/ect": "imagenet64/dsm",
        "imagenet64/scd": "imagenet64/dsm",
        "imagenet64/sct": "imagenet64/dsm",
        "lsun256/cd-lpips": "lsun256/dsm",
    }

    def shapes(name):
        recipe = recipes.load(name)
        (size, channels), classes = SHAPES[recipe.data.name]
        with torch.device("meta"):
            built = recipe.network.build(size, channels, classes if recipe.data.conditional else 0)
        return {key: value.shape for key, value in built.state_dict().items()}

    for student, start in starts.items():
        assert shapes(student) == shapes(start), student


if __name__ == "__main__" and "--write" in sys.argv:
    README.write_text(renewed())
