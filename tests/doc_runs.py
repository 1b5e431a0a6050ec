"""Runs the commands of the pages: made short as the tables here say, in this process where it can.

A fast run shortens everything. A slow run takes commands as they are written, except that trainings
get a few steps, numbers of images have an upper bound, and data sets and models are small ones.
"""

import contextlib
import functools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli_world import cmtool
from doc_pages import ROOT, Command
from doc_world import full_sets

MOST_IMAGES = 100
"""Of one command in a slow run."""


@dataclass(frozen=True)
class Rule:
    """How some commands are run.

    Args:
        words: How such a command begins, and options that it has.
        fast: Options of fast runs, or None where a fast run only checks what is typed.
        slow: Options of slow runs.
        unless: With one of these among its words, nothing is added.
    """

    words: str
    fast: str | None
    slow: str = ""
    unless: str = ""

    def fits(self, words: list[str]) -> bool:
        """Whether it holds for a command."""
        mine = self.words.split()
        begin = [word for word in mine if not word.startswith("--")]
        return words[: len(begin)] == begin and {*mine} <= {*words}


TRAINING = "--max-steps 2 --batch-size 4 --device cpu --precision no"
MEASURE = "--n 8 --bootstrap 2"
FEW = "--n 50 --bootstrap 2"
DEBLUR = "--steps 2 --tol 0.5"  # An untrained model keeps the solver busy for minutes.
RULES = (
    Rule("train", TRAINING, TRAINING),
    Rule("distill", TRAINING, TRAINING),
    Rule("sample", "--n 4", f"--n {MOST_IMAGES}", unless="--per-label"),
    Rule("edit interpolate", "--frames 3 --steps 2", unless="--times"),
    Rule("edit deblur", DEBLUR, DEBLUR),
    Rule("edit", "--steps 2", unless="--times"),
    Rule("eval search", "--n 40 --tol 1", f"--n {MOST_IMAGES}"),
    Rule("eval consistency", "--n 4 --teacher-steps 16", "--n 64"),
    Rule("eval lpips", "--n 12", "--n 64"),
    Rule("eval neighbours", "--n 8 --show 2", "--n 64"),
    Rule("eval classes", "--per-label 2", "--per-label 64"),
    Rule("eval speed", "--repeats 1 --batch-size 2"),
    Rule("eval --images", "--bootstrap 2", "--bootstrap 2"),
    Rule("eval fd --features", f"{MEASURE} --data photos", FEW),
    Rule("eval fd", MEASURE, f"--n {MOST_IMAGES} --bootstrap 2"),
    Rule("eval", f"{MEASURE} --data photos", FEW),
    Rule("export onnx", None),
    Rule("export pt2", None),
    Rule("export aoti", None),
    Rule("", ""),
)
"""The first that fits holds. An option that is given twice counts as given last; of `--n` and its
like the smaller number counts, and `--data` is added only where the page does not say it."""

SMALLER = {"--n", "--per-label", "--repeats", "--show", "--frames", "--batch-size", "--steps"}

SCRIPTS = {
    "benchmarks/digits_methods.py": "runs/digits-dsm 1 cd",
    "benchmarks/digits_quality.py": "runs/digits-cd",
    "benchmarks/editing.py": "--model runs/cifar10-cd --images 1 --tasks colorize --methods plain",
    "benchmarks/equal_time.py": "1 runs/choices 'cd = distill digits/cd --teacher runs/digits-dsm'",
    "benchmarks/eval_overhead.py": "8",
    "benchmarks/export_engines.py": "runs/digits-cd --batch 1 --rounds 1",
    "benchmarks/inverse_operators.py": "runs/cifar10-cd",
    "benchmarks/method_cost.py": "runs/digits-dsm 1 cd",
    "benchmarks/noise_estimates.py": "astronaut",
    "benchmarks/sample_overhead.py": "runs/digits-cd 4",
    "benchmarks/search_digits.py": "runs/digits-cd 40",
    "benchmarks/shipped_figures.py": "runs/cifar10-cd --n 20 --reference-n 20 --no-second",
    "benchmarks/solvers.py": "",
    "benchmarks/two_points.py": "2 cd",
}
"""What a slow run gives a script in place of its arguments."""

LOOKED_AT = ("pip", "git", "make")
"""Commands that change a machine: extras, and targets of the Makefile, must be there."""
SHELL = ("cat", "cd", "cp", "head", "ls", "mkdir", "mv", "rm", "tail", "tr", "unzip", "zip")


def problem_of(command: Command) -> str | None:
    """What is wrong with a command as it is typed: nothing is run."""
    words, place = [*command.words], f"line {command.line}: {command}"
    if not words:
        return None
    tool = inner(words)
    if tool is not None:
        return told(place, problem_of_cmtool(tool))
    match words:
        case ["pip" | "git" | "make", *_]:
            return told(place, problem_of_setup(words))
        case ["python", script, *_] if script.endswith(".py"):
            return None if (ROOT / script).is_file() else f"{place}: no such script"
        case ["python", "-c", code, *_]:
            compile(code, place, "exec")
            return None
        case [first, *_] if first in SHELL:
            return None
    return f"{place}: no command that can be run; mark the block, or tag output as text"


def told(place: str, problem: str | None) -> str | None:
    """A problem with its place."""
    return None if problem is None else f"{place}: {problem}"


def inner(words: list[str]) -> list[str] | None:
    """The words after `cmtool`, also where a launcher or `python -m` stands before it."""
    if words[0] == "cmtool":
        return words[1:]
    if words[0] in ("torchrun", "accelerate", "python") and "cmtool" in words:
        return words[words.index("cmtool") + 1 :]
    return None


def problem_of_setup(words: list[str]) -> str | None:
    """Of pip: unknown extras; of make: unknown targets."""
    if words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for word in words:
            for names in re.findall(r"^(?:cmtool|\.)\[([^]]+)\]$", word):
                for name in names.split(","):
                    if name not in extras["optional-dependencies"]:
                        return f"no extra '{name}'"
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for word in words[1:]:
            if "=" not in word and word not in targets:
                return f"no target '{word}'"
    return None


@functools.cache
def group() -> Any:
    """The command line as click sees it."""
    import typer

    from cmtool.cli import app

    return typer.main.get_command(app)


def problem_of_cmtool(words: list[str]) -> str | None:
    """An unknown command or option; placeholders such as MODEL, [MODEL] or ... are let through."""
    node, rest = group(), [*words]
    while hasattr(node, "commands"):
        while rest and rest[0].startswith("-"):
            option = rest.pop(0)
            if option.partition("=")[0] not in options_of(node):
                return f"no option '{option}'"
            if option == "--list":
                return None
        if not rest or not rest[0].isalpha() or rest[0].isupper():
            return None
        if rest[0] not in node.commands:
            return f"no command '{rest[0]}'"
        node = node.commands[rest.pop(0)]
    for word in rest:
        name = word.strip("[]").partition("=")[0]
        if re.match(r"--?[a-z]", name) and name not in options_of(node):
            return f"'{node.name}' has no option '{name}'"
    return None


@functools.cache
def options_of(node: Any) -> set[str]:
    """Every spelling of a command's options."""
    from typer._click import Context  # Typer's own copy of click

    spelled = {name for p in node.params for name in (*p.opts, *p.secondary_opts)}
    return spelled | set(node.get_help_option_names(Context(node))) | {"-h", "--help"}


# Running


def run(command: Command, *, slow: bool) -> str | None:
    """Runs a command in the current folder; what went wrong, or None."""
    words, place = [*command.words], f"line {command.line}: {command}"
    if not words or words[0] in LOOKED_AT or "skip" in command.marks:
        return None
    with settings(command.environment):
        tool = inner(words)
        if tool is None:
            return told(place, run_other(words, command.rest, slow=slow))
        short = shortened(tool, command.marks, slow=slow)
        if short is None:
            return None
        launched = words[0] in ("torchrun", "accelerate")
        if launched and slow:
            return told(place, launch(words[0], short))
        done = cmtool(*short)
        wanted = 2 if any(line.startswith("error: ") for line in command.output) else 0
        if done.exit_code != wanted:
            return f"{place}\n  as cmtool {shlex.join(short)}\n{done.stderr}{done.exception!r}"
        if "other output" not in command.marks and short != ["info"]:
            missing = unlike(command.output, f"{done.stdout}\n{done.stderr}")
            if missing:
                return f"{place}\n  does not print\n{missing}\n  but\n{done.stdout}{done.stderr}"
        return told(place, send(done.stdout, command.rest))


def unlike(shown: tuple[str, ...], printed: str) -> str:
    """The lines of a page's output that a command did not print, numbers aside."""
    have = {masked(line) for line in printed.splitlines()}
    missing = []
    for line in shown:
        pattern = re.escape(masked(line)).replace(r"\.\.\.", ".*")
        if not any(re.fullmatch(pattern, one) for one in have):
            missing.append(line)
    return "\n".join(missing)


def masked(line: str) -> str:
    """A line without its numbers, and without the length of a list of them."""
    number = r"(?<![A-Za-z])[-+]?\d+(,\d{3})*(\.\d+)?(e[-+]?\d+)?%?"
    words = re.sub(r"step-#", "step", re.sub(number, "#", line))
    words = re.sub(r"images of \w+", "images of a set", words)
    words = re.sub(r"(#, )+(\.\.\. )?#", "#", words)
    return " ".join(words.split())


@contextlib.contextmanager
def settings(environment: tuple[str, ...]) -> Any:
    """Variables typed before a command."""
    before = dict(os.environ)
    os.environ.update(dict(word.split("=", 1) for word in environment))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def shortened(words: list[str], marks: tuple[str, ...], *, slow: bool) -> list[str] | None:
    """A command of cmtool as it is run, or None where a fast run leaves it out."""
    rule = next(rule for rule in RULES if rule.fits(words))
    wanted = rule.slow if slow else rule.fast
    if wanted is None:
        return None
    if "--help" in words or set(rule.unless.split()) & set(words):
        wanted = ""
    short = with_options([*words], shlex.split(wanted))
    if words[0] in ("train", "distill"):
        short += [] if "--resume" in words else ["--overwrite"]
        if "--resume" in words and "--max-steps" in short:
            short += ["--max-steps", "3"]
        large = any(re.match(r"(cifar10|imagenet64|lsun256)/", word) for word in words)
        if "dry-run" in marks or ("2 processes" in marks and not slow):
            short.append("--dry-run")
        elif large:
            short += small_network(words[1]) if slow else ["--dry-run"]
    return short


def with_options(words: list[str], more: list[str]) -> list[str]:
    """The words and more options, of which a smaller number that is there already stays."""
    for name, value in zip(more[::2], more[1::2], strict=True):
        if name in words:
            given = words[words.index(name) + 1]
            if name == "--data":
                continue
            if name in SMALLER and given.isdigit() and int(given) <= int(value):
                continue
        words += [name, value]
    return words


def small_network(recipe: str) -> list[str]:
    """A published network's form, small enough for two processes on a CPU."""
    from cmtool import recipe as recipes

    network = recipes.load(recipe).network
    if network is None:
        return []
    sizes = ("channels=32", "blocks=1", "channel_mult=[1]")
    return [word for size in sizes for word in ("--set", f"network.{size}")]


def launch(launcher: str, words: list[str]) -> str | None:
    """Runs a command of cmtool as two processes on the CPU, and has a training say so."""
    module = {
        "torchrun": ["torch.distributed.run", "--nproc_per_node", "2", "-m", "--"],
        "accelerate": [
            *("accelerate.commands.accelerate_cli", "launch", "--multi_gpu"),
            *("--num_processes", "2", "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no", "-m"),
        ],
    }[launcher]
    if words[0] == "eval" and "--data" not in words:
        words = [*words, "--data", "photos"]  # The full set would take minutes to no purpose.
    trains = words[0] in ("train", "distill") and "--dry-run" not in words
    wanted = "= 2 process(es)" if trains else ""
    return python(["-m", *module, "cmtool", *words], wanted)


def run_other(words: list[str], rest: str, *, slow: bool) -> str | None:
    """Runs a script or a small command of the shell."""
    if words[0] == "cd":
        os.chdir(words[1])
        return None
    if words[0] != "python":
        return shell(["bash", "-c", f"{shlex.join(words)} {rest}"])
    if words[1:2] == ["-c"]:
        return python(words[1:])
    return script(words[1]) if slow else None


def script(name: str) -> str | None:
    """Runs one of SCRIPTS in the folder of a page."""
    return python([name, *shlex.split(SCRIPTS[name])])


def python(words: list[str], wanted: str = "") -> str | None:
    """Runs Python; data sets have their full size there."""
    full = full_sets(Path(os.environ["CMTOOL_DATA"]).parent / "full")
    with settings((f"CMTOOL_DATA={full}",)):
        return shell([sys.executable, *words], wanted)


def shell(words: list[str], wanted: str = "") -> str | None:
    """Runs a program; what it said if it failed, or did not say what is wanted."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode == 0 and wanted in said:
        return None
    return f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def send(output: str, rest: str) -> str | None:
    """Puts a command's output where a redirection or pipe wants it."""
    if not rest:
        return None
    done = subprocess.run(
        ["bash", "-c", f"cat {rest}"], input=output, capture_output=True, text=True
    )
    return None if done.returncode == 0 else done.stderr
