"""Makes a model that comes with the package: one command each, which goes on where it was stopped.

    python recipes/ship.py digits          # or digits-teacher, mnist, cifar10
    python recipes/ship.py cifar10 --from runs/cifar10-cd

It types the commands that a user would: trains the teacher, distils it, exports the result in half
precision; then it moves the file into the package, with a word on how it was made. Runs lie under
`runs/ship`; those that are finished are not made again. `--from` packs a run that is there.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from cmtool import checkpoint, shipped
from cmtool.checkpoint import Checkpoint
from cmtool.cli import app
from cmtool.denoiser import Use
from cmtool.schedules.karras import Karras
from cmtool.tensor_file import read_tensors

FAMILIES = {"digits": "digits", "mnist": "mnist-cpu", "cifar10": "cifar10-cpu"}
"""Data to the recipes that suit two CPU cores."""
NAMES = [*FAMILIES, "digits-teacher"]
REFINED = {"cifar10": 2}
"""How many more distillations a model goes through, each from the one before."""
LEVELS: dict[str, dict[Use, tuple[float, ...]]] = {
    "cifar10": {
        "colorize": tuple(Karras(sigma_min=0.02, sigma_max=10.0).grid(80).tolist()),
        "superres": (80.0, 3.0, 1.2, 0.6, 0.3, 0.12),
    }
}
"""Noise levels to edit at, in place of the editor's own 18. Colours that were drawn before the luma
could tell anything are chosen anew in many small steps. Few steps save time where a picture four
times as large has many tiles; the small picture tells what large noise would."""
RUNS = Path("runs/ship")


def main(name: str, run: Path | None) -> None:
    """Makes `cmtool/shipped/NAME.safetensors`."""
    data, wants_teacher = name.removesuffix("-teacher"), name.endswith("-teacher")
    teacher, family = RUNS / f"{data}-teacher", FAMILIES[data]
    recipe = "dsm" if wants_teacher else "cd-refine" if name in REFINED else "cd"
    if run is None:
        run = teacher if wants_teacher else RUNS / data
        _run("train", f"{family}/dsm", "--out", teacher)
        if not wants_teacher:
            _run("distill", f"{family}/cd", "--teacher", teacher, "--out", run)
        for number in range(REFINED.get(name, 0)):
            begun, run = run, RUNS / f"{data}-refined-{number + 1}"
            words = ("--teacher", teacher, "--init", begun, "--out", run)
            _run("distill", f"{family}/{recipe}", *words)
    origin = {"recipe": f"{family}/{recipe}", "command": f"python recipes/ship.py {name}"}
    if not wants_teacher:
        origin["teacher"] = "shipped/digits-teacher" if name == "digits" else f"{family}/dsm"
    _pack(name, run, origin)


def _run(command: str, recipe: str, *words: object) -> None:
    """Trains, goes on, or finds that there is nothing to do."""
    begun = checkpoint.latest(Path(str(words[-1]))) is not None
    _cmtool(command, recipe, *words, *["--resume"] * begun)


def _pack(name: str, run: Path, origin: dict[str, str]) -> None:
    found = Checkpoint.open(run)
    if found.meta.step < found.recipe.train.steps:
        sys.exit(f"{run} is at step {found.meta.step} of {found.recipe.train.steps}")
    draft = RUNS / "exports" / f"{name}.safetensors"
    _cmtool("export", "safetensors", run, "--dtype", "float16", "--out", draft, "--overwrite")
    meta, recipe = checkpoint.parse_config(checkpoint.read_header(draft) or "", str(draft))
    licences = {
        what: held for what, held in meta.origin["licences"].items() if "teacher" not in what
    }
    origin = meta.origin | origin | {"licences": licences}  # The teacher is ours, of the same data.
    meta = replace(meta, origin=origin, times=meta.times | LEVELS.get(name, {}))
    target = shipped.FOLDER / draft.name
    checkpoint.write_file(target, meta, recipe, read_tensors(draft))
    target.chmod(0o644)  # safetensors gives its files to their owner alone.
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


def _cmtool(*words: object) -> None:
    """A command, which saves on Ctrl-C and ends the program if it fails."""
    command = [str(word) for word in words]
    print("$ cmtool", *command, flush=True)
    app(command, standalone_mode=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--from", dest="run", type=Path, metavar="RUN", help="pack this run")
    given = parser.parse_args()
    main(given.name, given.run)
