"""Recipes: a round trip that loses nothing, and messages that name every mistake and its place."""

import math
import os
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmtool import recipe, registry
from cmtool._toml import checked, line_numbers, parse_value, write_value
from cmtool.errors import RecipeError
from cmtool.recipe import DataSettings, DenoiserSettings, Recipe, TeacherSettings, TrainSettings

MINIMAL = '[loss]\nname = "dsm"\n'
relaxed = settings(suppress_health_check=list(HealthCheck))


def problems(text: str, overrides: tuple[recipe.Override, ...] = ()) -> list[str]:
    """The lines of the error that `text` raises, without the heading."""
    with pytest.raises(RecipeError) as caught:
        recipe.parse(text, "bad.toml", overrides)
    heading, *found = caught.value.message.split("\n  ")
    assert heading == f"{len(found)} problem{'s' * (len(found) > 1)} in the recipe"
    return found


# Reading.


def test_a_minimal_recipe_has_every_default():
    made = recipe.parse(MINIMAL, "x.toml")
    assert made.network is None
    assert (type(made.schedule).__name__, type(made.solver).__name__) == ("Karras", "Heun")
    assert made.train == TrainSettings()
    assert made.data == DataSettings()
    assert made.teacher == TeacherSettings()
    assert made.denoiser == DenoiserSettings()


def test_keys_become_fields_with_their_types():
    made = recipe.parse(
        MINIMAL
        + "[schedule]\nsigma_max = 50\n[train]\nema = [0.9, 0.99]\nlr = 1\nbetas = [0, 0.5]",
        "x.toml",
    )
    assert made.schedule.sigma_max == 50.0
    assert type(made.schedule.sigma_max) is float
    assert made.train.ema == (0.9, 0.99)
    assert type(made.train.lr) is float
    assert made.train.betas == (0.0, 0.5)


def test_overrides_win_in_order_and_are_parsed_as_toml():
    made = recipe.parse(
        MINIMAL,
        "x.toml",
        [
            "train.lr=1e-3",
            "train.lr = 2e-3",
            "loss.name=cd",
            "train.ema=[0.5]",
            "data.flip=true",
            "data.name=my photos",
            'train.device="cpu"',
            ("train.steps", 7),
        ],
    )
    assert made.train.lr == 2e-3
    assert made.train.ema == (0.5,)
    assert made.train.steps == 7
    assert made.train.device == "cpu"
    assert made.data.flip is True
    assert made.data.name == "my photos"
    assert registry.name_of("losses", type(made.loss)) == "cd"


def test_load_takes_a_path_with_windows_line_ends_and_a_byte_order_mark(tmp_path: Path):
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert recipe.load(path) == recipe.load(str(path)) == recipe.parse(MINIMAL, "")


def test_every_name_is_a_recipe_of_the_repository():
    folder = Path(recipe.__file__).parent.parent / "recipes"
    files = {p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.toml")}
    assert recipe.names() == sorted(files)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes that stands for the packaged one."""
    (tmp_path / "shelf" / "digits").mkdir(parents=True)
    (tmp_path / "shelf" / "digits" / "edm.toml").write_text(MINIMAL)
    monkeypatch.setattr(recipe, "_root", lambda: tmp_path / "shelf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_finds_the_packaged_recipe_and_a_file_wins_over_it(shelf: Path):
    assert recipe.names() == ["digits/edm"]
    assert recipe.load("digits/edm").train.steps == TrainSettings().steps
    Path("digits").mkdir()
    Path("digits/edm").write_text(MINIMAL + "[train]\nsteps = 3\n")
    assert recipe.load("digits/edm").train.steps == 3


def test_listing_and_importing_recipes_needs_no_torch():
    code = (
        "import sys; from cmtool import recipe; recipe.names()\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Complaints.


def test_the_worked_example_reports_everything_by_line():
    text = """# Wrong in six ways.
[train]
batchsize = 64
lr = "fast"
precision = "fp61"

[loss]
name = "dsn"

[schedule]
sigma_max = 0.001
sigma_mim = 0.002
"""
    assert problems(text) == [
        "bad.toml:3: train.batchsize: unknown key (did you mean 'batch_size'?)",
        "bad.toml:4: train.lr: expected float, got 'fast'",
        "bad.toml:5: train.precision: expected one of 'auto', 'no', 'bf16', 'fp16', got 'fp61'"
        " (did you mean 'fp16'?)",
        "bad.toml:8: loss.name: unknown loss 'dsn' (did you mean 'dsm'?)",
        "bad.toml:10: schedule: needs 0 < sigma_min < sigma_max, got sigma_min=0.002,"
        " sigma_max=0.001",
        "bad.toml:12: schedule.sigma_mim: unknown key (did you mean 'sigma_min'?)",
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[trian]", "3: trian: unknown section (did you mean 'train'?)"),
        ("[train.lr]", "3: train.lr: expected float, got a table"),
        ("[[train]]", "3: train: expected a section [train]"),
        ("[train]\nlr = true", "4: train.lr: expected float, got true"),
        ("[train]\nlr = nan", "4: train.lr: expected float, got nan"),
        ("[train]\nsteps = 1.0", "4: train.steps: expected int, got 1.0"),
        ("[train]\nsteps = 0x8000000000000000", "expected int, got 9223372036854775808"),
        ("[train]\ncompile = 1", "4: train.compile: expected true or false, got 1"),
        ("[train]\ndevice = 3", "4: train.device: expected str, got 3"),
        ("[train]\nema = 0.9", "4: train.ema: expected list of float, got 0.9"),
        ("[train]\nema = [0.9, 'x']", "4: train.ema: expected float, got 'x'"),
        ("[train]\nema = []", "4: train.ema: needs one or more different 0 <= ema < 1, got ema=()"),
        ("[train]\nema = [0.5, 0.5]", "needs one or more different 0 <= ema < 1"),
        ("[train]\nbetas = [0.9]", "4: train.betas: expected list of 2 float, got [0.9]"),
        ("[train]\nbetas = [0.9, 1]", "needs 0 <= betas < 1, got betas=(0.9, 1.0)"),
        ("[train]\nlr = 2020-01-01", "4: train.lr: expected float, got 2020-01-01"),
        ("[train]\nlr = 0", "4: train.lr: needs 0 < lr < inf, got lr=0.0"),
        ("[train]\nlr = inf", "4: train.lr: needs 0 < lr < inf, got lr=inf"),
        ("[train]\nsteps = 0", "4: train.steps: needs steps >= 1, got steps=0"),
        ("[train]\nbatch_size = -1", "4: train.batch_size: needs batch_size >= 1"),
        ("[train]\nmicro_batch = 0", "4: train.micro_batch: needs micro_batch >= 1"),
        ("[train]\ngrad_clip = 0", "4: train.grad_clip: needs grad_clip > 0"),
        ("[train]\nlr_warmup = -1", "4: train.lr_warmup: needs lr_warmup >= 0"),
        ("[train]\nseed = -1", "4: train.seed: needs 0 <= seed < 2^63, got seed=-1"),
        ("[train]\nweight_decay = -1", "4: train.weight_decay: needs 0 <= weight_decay < inf"),
        ("[data]\nlabel_dropout = 2", "4: data.label_dropout: needs 0 <= label_dropout <= 1"),
        ("[data]\ncrop = 'centre'", "got 'centre' (did you mean 'center'?)"),
        ("[data]\nimage_size = 0", "4: data.image_size: needs image_size >= 1"),
        ("[teacher]\nsubsteps = 0", "4: teacher.substeps: needs substeps >= 1"),
        ("[denoiser]\nsigma_data = 0", "4: denoiser.sigma_data: needs 0 < sigma_data < inf"),
        ("[denoiser]\nprecond = 'edn'", "got 'edn' (did you mean 'edm'?)"),
        ("[network]", "3: network.name: expected one of 'adm', "),
        ("[network]\nname = 3", "4: network.name: expected one of 'adm', "),
        ("[solver]\nname = 'huen'", "4: solver.name: unknown solver 'huen' (did you mean 'heun'?)"),
        ("[schedule]\nrho = -1", "4: schedule.rho: needs rho > 0, got rho=-1.0"),
        ("[schedule]\n'rh o' = 1", "4: schedule.rh o: unknown key (did you mean 'rho'?)"),
        ('[solver]\n"a\\nb" = 1', "solver.a\\nb: unknown key"),
    ],
)
def test_each_mistake_has_its_line_and_its_words(body: str, expected: str):
    (found,) = problems(MINIMAL + body)
    assert expected in found


def test_a_key_outside_any_section_names_the_section_it_may_belong_to():
    assert problems("lr = 1e-4\n" + MINIMAL) == [
        "bad.toml:1: lr: stands outside any section (did you mean 'train.lr'?)"
    ]


def test_a_recipe_without_a_loss_says_which_there_are():
    (found,) = problems("[train]\nlr = 1e-4\n")
    known = ", ".join(f"'{name}'" for name in registry.names("losses"))
    assert found == f"bad.toml: loss: missing section; its name is one of {known}"


def test_two_ranges_of_one_section_are_both_reported():
    assert problems(MINIMAL + "[train]\nsteps = 0\nlr = -1\nbatch_size = 'x'\n") == [
        "bad.toml:4: train.steps: needs steps >= 1, got steps=0",
        "bad.toml:5: train.lr: needs 0 < lr < inf, got lr=-1.0",
        "bad.toml:6: train.batch_size: expected int, got 'x'",
    ]


def test_overrides_are_located_as_typed_and_come_last():
    overrides = (
        "train.lr=fast",
        "schedule.sigma_max=0.001",
        "train.stepps=3",
        "lr=3",
        "trian.lr=3",
        "loss.name=dsn",
        "data.flip=True",
    )
    assert problems(MINIMAL + "[train]\nseed = -1\n", overrides) == [
        "bad.toml:4: train.seed: needs 0 <= seed < 2^63, got seed=-1",
        "--set train.lr: expected float, got 'fast'",
        "--set schedule.sigma_max: needs 0 < sigma_min < sigma_max, got sigma_min=0.002,"
        " sigma_max=0.001",
        "--set train.stepps: unknown key (did you mean 'steps'?)",
        "--set lr: expected SECTION.KEY (did you mean 'train.lr'?)",
        "--set trian.lr: unknown section 'trian' (did you mean 'train'?)",
        "--set loss.name: unknown loss 'dsn' (did you mean 'dsm'?)",
        "--set data.flip: expected true or false, got 'True'",
    ]


def test_an_override_without_a_value_says_how_to_write_one():
    with pytest.raises(RecipeError) as caught:
        recipe.parse(MINIMAL, "x.toml", ["train.lr"])
    assert caught.value.message == "--set 'train.lr' has no value"
    assert caught.value.hint == "--set SECTION.KEY=VALUE, as in train.lr=1e-4"


def test_what_is_not_toml_has_its_line():
    with pytest.raises(RecipeError) as caught:
        recipe.parse("[train]\nlr = \n", "bad.toml")
    assert caught.value.message == "bad.toml:2: not TOML: Invalid value"


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, shelf: Path):
    def message(source: str | Path) -> str:
        with pytest.raises(RecipeError) as caught:
            recipe.load(source)
        return caught.value.message

    (tmp_path / "raw.toml").write_bytes(b"\xff\xfe\x00\x00")
    assert message("digits/edn") == "no recipe 'digits/edn' (did you mean 'digits/edm'?)"
    assert message("raw.toml") == "recipe 'raw.toml' is not a text file in UTF-8"
    assert message(tmp_path) == f"cannot read recipe '{tmp_path}': Is a directory"
    assert message("x" * 300) == f"cannot read recipe '{'x' * 300}': File name too long"
    assert message("a\0b") == "cannot read recipe 'a\0b': embedded null byte"
    assert message("") == "cannot read recipe '': Is a directory"
    if os.geteuid():
        (tmp_path / "raw.toml").chmod(0)
        assert message("raw.toml") == "cannot read recipe 'raw.toml': Permission denied"


# Writing.


def test_dump_writes_sections_in_order_and_marks_overridden_keys():
    made = recipe.parse(MINIMAL, "x.toml", ["train.lr=0.001", "solver.name=euler"])
    lines = recipe.dump(made, overridden={"train.lr", "solver.name"}).splitlines()
    heads = [line for line in lines if line.startswith("[")]
    assert heads == [
        *("[schedule]", "[denoiser]", "[solver]", "[loss]", "[teacher]", "[data]", "[train]"),
        "[sampling]",
    ]
    assert [line for line in lines if "#" in line] == [
        'name = "euler"  # --set',
        "lr = 0.001  # --set",
    ]


def test_a_key_left_at_none_is_not_written():
    text = recipe.dump(recipe.parse(MINIMAL, "x.toml"))
    assert "grad_clip" not in text
    assert "network" not in text
    assert "crop" not in text


floats = st.floats(0, 1, exclude_max=True)
counts = st.integers(1, 2**40)
text = st.text(st.characters(exclude_categories=["Cs"]))

denoisers = st.builds(
    DenoiserSettings,
    precond=st.sampled_from(["edm", "consistency"]),
    sigma_data=st.floats(1e-300, 1e300),
    noise_scale=st.floats(1e-6, 1e6),
    boundary=floats,
)
datas = st.builds(
    DataSettings,
    name=st.none() | text,
    image_size=st.none() | counts,
    crop=st.sampled_from([None, "none", "center", "dhariwal", "lsun"]),
    flip=st.booleans(),
    skip_broken=st.booleans(),
    conditional=st.booleans(),
    label_dropout=floats,
)
teachers = st.builds(TeacherSettings, guidance=st.floats(0, 9), substeps=counts)
trains = st.builds(
    TrainSettings,
    **dict.fromkeys(["steps", "batch_size", "log_every", "sample_every"], counts),
    **dict.fromkeys(["save_every", "keep_last"], counts),
    **dict.fromkeys(["micro_batch", "lr_decay_steps"], st.none() | counts),
    lr=st.floats(1e-300, 1e300),
    optimizer=st.sampled_from(["radam", "adam", "adamw"]),
    betas=st.tuples(floats, floats),
    weight_decay=st.floats(0, 1e300),
    lr_warmup=st.integers(0, 2**40),
    lr_decay=st.sampled_from(["none", "linear", "cosine", "rsqrt"]),
    grad_clip=st.none() | st.floats(1e-300, math.inf),
    ema=st.lists(floats, min_size=1, unique=True).map(tuple),
    ema_warmup=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    precision=st.sampled_from(["auto", "no", "bf16", "fp16"]),
    compile=st.booleans(),
    device=text,
    tracker=st.sampled_from(["none", "tensorboard", "wandb"]),
)


@relaxed
@given(denoiser=denoisers, data=datas, teacher=teachers, train=trains)
def test_reading_what_was_written_gives_an_equal_recipe(denoiser, data, teacher, train):
    made = replace(
        recipe.parse(MINIMAL, ""), denoiser=denoiser, data=data, teacher=teacher, train=train
    )
    every_key = {f"{section}.{f.name}" for section in ("train", "data") for f in fields(train)}
    assert recipe.parse(recipe.dump(made), "dumped") == made
    assert recipe.parse(recipe.dump(made, every_key), "dumped") == made


@pytest.mark.parametrize(
    ("section", "name"),
    [(s, n) for s, kind in recipe._KINDS.items() for n in registry.names(kind)],
)
def test_every_component_survives_the_round_trip(section: str, name: str):
    made = recipe.parse(MINIMAL, "", [f"{section}.name={name}"])
    component = getattr(made, section)
    assert type(component) is registry.load(recipe._KINDS[section], name)
    assert recipe.parse(recipe.dump(made), "dumped") == made
    # None cannot be written, so it can only stand for a key that is left out.
    for field in fields(component):
        assert field.default is None or getattr(component, field.name) is not None


@dataclass(frozen=True)
class Fake:
    """A component with a field of every type that TOML can hold."""

    needed: int
    also: str
    choice: Literal["a", "b", 3] = "a"
    either: int | tuple[int, ...] = 1
    pair: tuple[int, float] = (1, 2.0)
    nested: tuple[tuple[str, ...], ...] = ()
    maybe: Literal["x"] | None = None


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda kind, name: Fake)
    monkeypatch.setattr(registry, "name_of", lambda kind, cls: "fake")


@relaxed
@given(
    component=st.builds(
        Fake,
        needed=st.integers(-(2**63), 2**63 - 1),
        also=text,
        choice=st.sampled_from(["a", "b", 3]),
        either=st.integers(0, 9) | st.lists(st.integers(0, 9)).map(tuple),
        pair=st.tuples(st.integers(0, 9), st.floats(allow_nan=False)),
        nested=st.lists(st.lists(text).map(tuple)).map(tuple),
        maybe=st.sampled_from(["x", None]),
    )
)
def test_a_component_of_any_type_survives_the_round_trip(fake, component: Fake):
    made = Recipe(loss=component, schedule=component, solver=component)
    assert recipe.parse(recipe.dump(made), "dumped") == made


def test_missing_and_wrong_keys_of_a_component(fake):
    loss = "[schedule]\nneeded = 1\nalso = 'x'\n[solver]\nneeded = 1\nalso = 'x'\n[loss]\n"
    assert problems(loss + "name = 'fake'\neither = 'x'\nchoice = 4\nmaybe = 'y'") == [
        "bad.toml:7: loss.needed: missing, needs int",
        "bad.toml:7: loss.also: missing, needs str",
        "bad.toml:9: loss.either: expected int or list of int, got 'x'",
        "bad.toml:10: loss.choice: expected one of 'a', 'b', 3, got 4",
        "bad.toml:11: loss.maybe: expected one of 'x', got 'y'",
    ]


# Garbage.

SECTION = st.sampled_from(["train", "loss", "data", "network", "schedule", "trian", "teacher"])
COMPONENTS = [registry.load(kind, name) for kind in registry.KINDS for name in registry.names(kind)]
KEY = st.sampled_from(
    sorted({f.name for cls in (*COMPONENTS, *recipe._SETTINGS.values()) for f in fields(cls)})
)
VALUE = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "'cd'", "'dsm'", "'tiny'", "'adm'", "[]", "{}", "[1, 2]", "[[1]]"]),
    st.sampled_from(["1e400", "1979-05-27", "'''\n[train]\n'''", "[\n1,\n[2]\n]", "{lr = 1}"]),
    st.text(max_size=5),
)
PAIR = st.tuples(KEY, VALUE).map(lambda pair: f"{pair[0]} = {pair[1]}\n")
BLOCK = st.tuples(SECTION, st.lists(PAIR, max_size=4)).map(
    lambda block: f"[{block[0]}]\n" + "".join(block[1])
)


def reads_or_complains(source: str, overrides: list[str] | None = None) -> None:
    try:
        made = recipe.parse(source, "x.toml", overrides or [])
    except RecipeError:
        return
    assert recipe.parse(recipe.dump(made), "") == made


@relaxed
@given(st.text())
def test_garbage_is_a_recipe_error(source: str):
    reads_or_complains(source)


@relaxed
@given(st.lists(BLOCK, max_size=4, unique_by=lambda block: block.split("]")[0]).map("".join))
def test_nearly_right_recipes_are_read_or_complained_about(source: str):
    reads_or_complains(source)


@relaxed
@given(st.lists(st.text() | st.tuples(SECTION, KEY, VALUE).map("{0[0]}.{0[1]}={0[2]}".format)))
def test_garbage_after_set_is_a_recipe_error(overrides: list[str]):
    reads_or_complains(MINIMAL, overrides)


@pytest.mark.parametrize("source", ["a = " + "[" * 10_000, "[train]\nseed = " + "9" * 5000])
def test_a_recipe_that_breaks_the_reader_is_a_recipe_error(source: str):
    with pytest.raises(RecipeError, match=r"x\.toml"):
        recipe.parse(source, "x.toml")


# The pieces.


@given(text | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False))
def test_a_value_is_read_back_as_written(value: object):
    again = parse_value(write_value(value))
    assert again == value
    assert type(again) is type(value)
    assert checked(again, type(value)) == value


def test_lines_of_tables_keys_and_dotted_keys():
    source = "# x\nloss.name = 'cd'\n[ train ] # y\n'lr' = 1\n\n[a.\"b\"]\nc=1\n[[d]]"
    assert line_numbers(source) == {
        **{"loss": 2, "loss.name": 2, "train": 3, "train.lr": 4},
        **{"a.b": 6, "a.b.c": 7, "d": 8},
    }


# The header.


def test_the_header_is_read_with_its_continued_lines(tmp_path: Path):
    path = tmp_path / "r.toml"
    path.write_text(
        "# A title\n# over two lines.\n#\n# Source    A paper,\n#           Table 1\n"
        "# Command   cmtool train x\n# Expect:   nothing\n# Hardware  one core\n\n# not this\n"
        + MINIMAL
    )
    assert recipe.header(path) == recipe.Header(
        title="A title over two lines.",
        source="A paper, Table 1",
        command="cmtool train x",
        expect="nothing",
        hardware="one core",
    )


def test_a_header_without_a_part_names_it(tmp_path: Path):
    path = tmp_path / "r.toml"
    path.write_text("# Title\n# Source x\n# Command y\n# Hardware z\n" + MINIMAL)
    with pytest.raises(RecipeError) as caught:
        recipe.header(path)
    assert caught.value.message == f"{path}:1: the header says nothing of 'Expect'"
