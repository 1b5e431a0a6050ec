"""Help is instant and complete, and its examples are commands that exist."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
from cli_world import cmtool, printed_lightly
from typer.testing import CliRunner

from cmtool import __version__, recipe, registry
from cmtool.cli import app
from cmtool.cli._lists import KINDS
from cmtool.data import names as data

ROOT = typer.main.get_command(app)


def commands_of(group, prefix: str = "") -> dict[str, object]:
    """Every command by its words, those of a group after the group."""
    found = {}
    for name, command in sorted(group.commands.items()):
        found[prefix + name] = command
        if hasattr(command, "commands"):
            found |= commands_of(command, f"{prefix}{name} ")
    return found


COMMANDS = commands_of(ROOT)
INSTANT = [
    ["--help"],
    ["--version"],
    *([*command.split(), "--help"] for command in COMMANDS),
    *(["--list", kind] for kind in KINDS),
]


@pytest.mark.parametrize("words", INSTANT, ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]):
    assert printed_lightly(words)


def test_the_commands_are_those_of_the_design():
    assert {"train", "distill", "sample", "info", "eval"} <= set(COMMANDS)


def test_version():
    assert cmtool("--version").stdout == f"cmtool {__version__}\n"


def test_lists():
    def listed(kind: str) -> list[str]:
        done = cmtool("--list", kind)
        assert done.stderr == ""
        return [line.split()[0] for line in done.stdout.splitlines()]

    assert listed("recipes") == recipe.names()
    assert sorted(listed("data")) == data.names()
    for kind in registry.KINDS:
        assert listed(kind) == registry.names(kind)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_parameter_has_a_help_text(command: str):
    for parameter in COMMANDS[command].params:
        text = parameter.help
        assert text, f"{command}: {parameter.name} has no help text"
        assert text.rstrip().endswith((".", ")")), f"{command}: {parameter.name}: {text}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_stands_in_the_page(command: str):
    page = cmtool(*command.split(), "--help").stdout
    for parameter in COMMANDS[command].params:
        for name in (*parameter.opts, *parameter.secondary_opts):
            if name.startswith("--"):
                assert re.search(rf"{name}\b", page), name


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_of_a_page_is_cut(command: str, columns: str, monkeypatch):
    # Typer reads the width once, when it is imported.
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", int(columns))
    env = {"COLUMNS": columns, "TERMINAL_WIDTH": columns}
    page = CliRunner().invoke(app, [*command.split(), "--help"], env=env).stdout
    assert "\u2026" not in page
    assert max(map(len, page.splitlines())) <= int(columns)
    flat = re.sub(r"[\s\u2502]+", "", page)  # Without the boxes' sides and the breaks of lines.
    for parameter in COMMANDS[command].params:
        # Another column's text may stand between the lines of a long one; its words are all there.
        for word in parameter.help.split():
            assert word in flat, f"{parameter.name}: {word}"


def test_every_variable_that_is_read_stands_in_the_help():
    files = (Path(__file__).parents[2] / "cmtool").rglob("*.py")
    read = {name for file in files for name in re.findall(r"\bCMTOOL_[A-Z]+", file.read_text())}
    told = set(re.findall(r"\bCMTOOL_[A-Z]+", ROOT.epilog))
    assert read == told


def test_every_page_says_what_else_to_read():
    docs = Path(__file__).parents[2] / "docs"
    for name, command in {"cmtool": ROOT, **COMMANDS}.items():
        pages = re.findall(r"docs/([\w-]+\.md)", command.epilog or "")
        assert pages, name
        for page in pages:
            assert (docs / page).is_file(), page
        for other in re.findall(r"`cmtool ([a-z ]+) --help`", command.epilog):
            assert other in COMMANDS


def test_every_command_opens_with_one_sentence():
    for command in COMMANDS:
        first = COMMANDS[command].help.split("\n\n")[0]
        assert first.endswith("."), first


# Examples.


def words_of(line: str) -> list[str]:
    """What follows `cmtool`, also where a launcher stands before it."""
    words = shlex.split(line)
    return words[words.index("cmtool") + 1 :]


def examples_of(text: str) -> list[str]:
    return re.findall(r"`((?:cmtool|torchrun|accelerate launch) [^`]*)`", text)


def examples_of_readme() -> list[str]:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(cmtool|torchrun|accelerate launch) ", line)]


PAGES = {"cmtool": ROOT.help, **{name: COMMANDS[name].help for name in COMMANDS}}
EXAMPLES = [line for text in PAGES.values() for line in examples_of(text)] + examples_of_readme()


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_an_example(page: str):
    lines = examples_of(PAGES[page])
    assert page == "cmtool" or "\n\nExamples:\n\n- `" in PAGES[page]
    assert any(f"{page} " in line for line in lines)


@pytest.mark.parametrize("line", sorted(set(EXAMPLES)))
def test_an_example_is_understood(line: str):
    name, *words = words_of(line)
    assert name in COMMANDS
    while hasattr(COMMANDS[name], "commands"):
        name = f"{name} {words.pop(0)}"
    command = COMMANDS[name]
    given = command.make_context(name, list(words)).params
    if given.get("recipe") is not None:
        assert given["recipe"] in recipe.names()
    for setting in given.get("set_") or []:
        key = setting.partition("=")[0]
        section, _, field = key.partition(".")
        assert section in {"network", "schedule", "denoiser", "solver", "loss", "data", "train"}
        assert field
    if given.get("method") is not None:
        assert given["method"] in registry.names("losses")
    if given.get("solver") is not None:
        assert given["solver"] in registry.names("solvers")


# Results on stdout, everything else on stderr.


def test_dry_run_prints_a_recipe_that_can_be_used(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = cmtool("train", "digits/dsm", "--dry-run", "--lr", "0.25", "--set", "train.seed=3")
    assert done.exit_code == 0
    printed = tomllib.loads(done.stdout)
    assert (printed["train"]["lr"], printed["train"]["seed"]) == (0.25, 3)
    assert "lr = 0.25  # --set\n" in done.stdout
    assert "seed = 3  # --set\n" in done.stdout
    assert "data digits: 1400 images of 1x8x8 (CxHxW)\n" in done.stderr
    assert not list(tmp_path.iterdir())
    Path("again.toml").write_text(done.stdout)
    assert cmtool("train", "again.toml", "--dry-run").stdout == done.stdout.replace("  # --set", "")


def test_only_results_go_to_stdout(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    os.symlink(world / "cm", "cm")
    done = cmtool("sample", "cm", "--n", "2", "--out", "o")
    assert done.stdout == "o\no/grid.png\n"
    assert "NFE 1 (noise levels 80)" in done.stderr
    done = cmtool("sample", "cm", "--n", "2", "--out", "o.png")
    assert done.stdout == "o.png\n"
    done = cmtool("info", "cm")
    assert done.stderr == ""
    assert dict(line.split(None, 1) for line in done.stdout.splitlines())["kind"] == "consistency"


def test_of_several_processes_only_the_first_speaks(world: Path, tmp_path: Path):
    ran = {}
    for rank in ("0", "1"):
        ran[rank] = subprocess.run(
            [sys.executable, "-m", "cmtool", "--list", "losses"],
            env=os.environ | {"RANK": rank},
            capture_output=True,
            text=True,
        )
    assert ran["0"].stdout.split() == registry.names("losses")
    assert ran["1"].stdout == ""
