"""Runs of equal time: each choice of recipe and settings gets the same seconds of processor time.

    python benchmarks/equal_time.py 300 runs/choices \
        "cd = distill cifar10-cpu/cd --teacher runs/cifar10-dsm" \
        "wide = train cifar10-cpu/dsm --set network.width=224"

A choice is a name and words as `cmtool` takes them. Its speed is measured first; then it is trained
for as many steps as fit. Processor time, so that another process on the machine takes nothing from
a choice: run it with one thread. The runs stay in the folder, to be measured by another benchmark;
a run that is there is not made again.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from cmtool.workflows import distill, train
from cmtool.workflows.fit import Job, Listeners, Prepared, fit, make_trainer

WARM, TIMED = 5, 20


def plan(words: list[str], out: Path, *overrides: str) -> Prepared:
    """The run that the words of a choice describe."""
    parser = argparse.ArgumentParser(prog="choice")
    parser.add_argument("command", choices=("train", "distill"))
    parser.add_argument("recipe")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--set", nargs="+", action="extend", default=[])
    given = parser.parse_args(words)
    job = Job(given.recipe, overrides=(*given.set, *overrides), out=out, overwrite=True)
    if given.command == "distill":
        return distill.plan(job, given.teacher, {}, Listeners())
    return train.plan(job, given.init, {}, Listeners())


def seconds_a_step(prepared: Prepared, clock: Callable[[], float] = time.process_time) -> float:
    """Measured on steps that come after a few to warm up."""
    steps = make_trainer(prepared).steps()
    for _ in islice(steps, WARM):
        pass
    began = clock()
    for _ in islice(steps, TIMED):
        pass
    return (clock() - began) / TIMED


def main(budget: float, folder: Path, choices: list[str]) -> None:
    """Trains each choice and prints its row as it ends."""
    print("| choice | million parameters | steps | seconds |")
    print("|---|---|---|---|")
    for choice in choices:
        name, words = (part.strip() for part in choice.split("=", 1))
        out = folder / name.replace(" ", "-")
        if out.exists():
            continue
        steps = max(1, round(budget / seconds_a_step(plan(shlex.split(words), out))))
        prepared = plan(shlex.split(words), out, f"train.steps={steps}")
        began = time.process_time()
        fit(prepared, Listeners())
        took, size = time.process_time() - began, prepared.parameters / 1e6
        print(f"| {name} | {size:.1f} | {steps} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
