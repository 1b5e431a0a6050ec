"""The Tab key: what is offered through the shells' own protocols, and that nothing else is said."""

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from cli_world import printed_lightly
from typer.testing import CliRunner

from cmtool import __version__, recipe, registry, shipped
from cmtool.cli import _complete, app
from cmtool.data import names as data
from cmtool.formats.base import DTYPES
from cmtool.metrics.features import catalog
from cmtool.metrics.protocols import PROTOCOLS
from cmtool.workflows import load, search
from cmtool.workflows._engine import ENGINES

ROOT = typer.main.get_command(app)
SHELLS = ("bash", "zsh", "fish")


def variables(shell: str, words: list[str]) -> dict[str, str]:
    """What a shell's completion script sets for a line whose last word is not done."""
    line = " ".join(["cmtool", *words])
    return {
        "_CMTOOL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(["cmtool", *words]),
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }


def offered(*words: str) -> list[str]:
    """What bash offers for the last word, in order."""
    env = variables("bash", list(words))
    done = CliRunner().invoke(app, [], env=env, prog_name="cmtool")
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs() -> Path:
    """A folder runs, and in it what a model of the classes 0 to 9 says of itself."""
    step = Path("runs", "digits-cd", "step-00000002")
    step.mkdir(parents=True)
    (step.parent / "latest").write_text(step.name)
    meta = {"classes": [str(n) for n in range(10)], "weights": ["student", "ema-0.99"]}
    (step / "meta.json").write_text(json.dumps(meta))
    return Path("runs")


def test_commands():
    assert offered("") == ROOT.list_commands(None)
    assert offered("di") == ["distill"]
    assert set(offered("eval", "")) == set(ROOT.commands["eval"].commands)
    assert offered("edit", "in") == ["inpaint", "interpolate"]
    assert "--teacher" in offered("distill", "--t")


def test_recipes_and_their_files():
    assert offered("train", "") == recipe.names()
    Path("digits.toml").touch()
    Path("digits.txt").touch()
    Path("dir").mkdir()
    wanted = [name for name in recipe.names() if name.startswith("di")]
    assert offered("train", "di") == [*wanted, "digits.toml", "dir/"]


def test_models(runs: Path):
    ours = ["runs/digits-cd", *(f"shipped/{name}" for name in shipped.names())]
    assert offered("sample", "") == ours
    Path("edm.pt").touch()
    assert offered("sample", "") == [*ours, "edm.pt"]
    for words in (
        ["sample", "runs/"],
        ["export", "onnx", "runs/"],
        ["info", "runs/"],
        ["train", "--init", "runs/"],
        ["edit", "inpaint", "in.png", "--model", "runs/"],
        ["eval", "fd", "--model", "runs/"],
        ["eval", "search", "--model", "runs/"],
        ["eval", "speed", "--teacher", "runs/"],
    ):
        assert offered(*words) == ["runs/digits-cd"], words
    assert offered("sample", "--compare", "runs/a@1,run") == ["runs/a@1,runs/digits-cd"]


def test_teachers_are_diffusion_models(runs: Path):
    assert offered("distill", "--teacher", "") == ["shipped/digits-teacher"]
    meta = next(runs.glob("*/step-*/meta.json"))
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "kind": "diffusion"}))
    assert offered("distill", "--teacher", "runs/") == ["runs/digits-cd"]
    meta.write_text("broken")
    assert offered("distill", "--teacher", "") == ["shipped/digits-teacher"]


def test_data_sets():
    for words in (["train", "--data"], ["eval", "fd", "--data"]):
        assert offered(*words, "") == data.names()
        assert offered(*words, "lsun-") == ["lsun-bedroom", "lsun-cat"]
    assert set(data.names()) <= set(offered("info", ""))


def test_where_nothing_fits_the_shell_is_left_to_offer_paths():
    Path("photos").mkdir()
    for words in (["train", "--data", "pho"], ["sample", "photos/"], ["edit", "inpaint", ""]):
        assert offered(*words) == []


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["sample", "--solver", ""], "solvers"),
        (["sample", "--schedule", ""], "schedules"),
        (["export", ""], "formats"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_components(words: list[str], kind: str):
    assert offered(*words) == registry.names(kind)


def test_methods_are_those_of_the_command():
    for command, taught in (("distill", True), ("train", False)):
        names = offered(command, "--method", "")
        assert names == [
            name
            for name in registry.names("losses")
            if registry.load("losses", name).needs_teacher_model == taught
        ]


def test_keys_are_those_of_the_recipes():
    keys = {key.removesuffix("=") for key in offered("train", "--set", "")}
    wanted = set()
    for section in dataclasses.fields(recipe.Recipe):
        kinds = [kind for kind, base in registry.KINDS.items() if base.lower() == section.name]
        if not kinds:
            classes = [section.default_factory]
        else:
            wanted.add(f"{section.name}.name")
            classes = [registry.load(kinds[0], name) for name in registry.names(kinds[0])]
        wanted |= {f"{section.name}.{f.name}" for cls in classes for f in dataclasses.fields(cls)}
    assert keys == wanted


def test_classes_and_weights_of_the_model_in_the_line(runs: Path):
    digits = [str(n) for n in range(10)]
    assert offered("sample", "runs/digits-cd", "--label", "") == digits
    assert offered("sample", "runs/digits-cd", "--label", "3,") == [f"3,{n}" for n in digits]
    assert offered("edit", "inpaint", "--model", "runs/digits-cd", "--label", "7") == ["7"]
    assert offered("sample", "runs/digits-cd", "--weights", "s") == ["student"]
    assert offered("sample", "--label", "") == []
    Path("broken.safetensors").write_bytes(b"\xff" * 9)
    assert offered("sample", "broken.safetensors", "--label", "") == []


def test_classes_of_a_shipped_model():
    assert "7" in offered("sample", "shipped/digits", "--label", "")


def test_fixed_names_are_those_that_are_understood():
    assert _complete.DEVICES == load.DEVICES
    assert set(_complete.DTYPES) == set(DTYPES)
    assert _complete.ENGINES == ENGINES
    assert set(_complete.FEATURES) == set(catalog.NAMES)
    assert set(_complete.PROTOCOLS) == set(PROTOCOLS)
    for metric in _complete.METRICS:
        search.Wanted(metric=metric)
    assert offered("--list", "") == ["recipes", "data", *registry.KINDS]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "words",
    [
        ["--version", ""],
        ["--list", "losses", ""],
        ["--list", "nonsense", ""],
        ["nonsense", ""],
        ["edit", "nonsense", ""],
        ["sample", "--nonsense", ""],
        ["sample", "--n", "many", ""],
        ["sample", "'", ""],
        ["train", "--set", "a=b", "--set", ""],
        ["sample", "\x1b", "--label", ""],
    ],
    ids=repr,
)
def test_nothing_but_names_is_said(words: list[str], shell: str):
    done = CliRunner().invoke(app, [], env=variables(shell, words), prog_name="cmtool")
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    assert __version__ not in done.stdout
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_the_other_shells_are_told_the_same():
    def said(shell: str) -> str:
        env = variables(shell, ["train", "--data", "di"])
        return CliRunner().invoke(app, [], env=env, prog_name="cmtool").stdout.strip()

    assert said("bash") == "digits"
    assert said("zsh") == """_arguments '*: :(("digits"))'"""
    assert said("fish") == "digits"


# Real shells.


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment with a command cmtool and a home of its own."""
    command = tmp_path / "bin" / "cmtool"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom cmtool.cli import main\nmain()\n")
    command.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    root = Path(__file__).parents[2]
    return os.environ | {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "PYTHONPATH": str(root),
    }


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_after_install_completion(installed: dict[str, str]):
    line = """
cmtool --install-completion > /dev/null
source ~/.bash_completions/cmtool.sh
COMP_WORDS=(cmtool distill --data di); COMP_CWORD=3; _cmtool_completion cmtool
echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(["bash", "-c", line], env=installed, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("digits\n", "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
def test_fish_after_install_completion(installed: dict[str, str]):
    line = 'cmtool --install-completion > /dev/null; complete -C "cmtool distill --data di"'
    done = subprocess.run(["fish", "-c", line], env=installed, capture_output=True, text=True)
    assert done.stdout.split() == ["digits"]


@pytest.mark.parametrize("words", [["train", ""], ["train", "--set", ""], ["sample", ""]])
def test_completion_imports_nothing_heavy(words: list[str]):
    assert printed_lightly([], **variables("bash", words))


@pytest.mark.benchmark
@pytest.mark.parametrize("words", [["train", ""], ["train", "--set", ""], ["sample", ""]])
def test_completion_takes_less_than_half_a_second(words: list[str]):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = os.environ | variables("bash", words)
    code = "import sys; sys.argv = ['cmtool']; from cmtool.cli import main; main()"
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 0.5
