"""What a training step of every method costs, in steps of `dsm`.

    OMP_NUM_THREADS=1 python benchmarks/method_cost.py TEACHER [ROUNDS] [METHOD ...]

Every recipe digits/METHOD takes one step in turn, so that what else the machine does falls on all
of them alike. Printed is the median of this process's own CPU time: once as the recipes are, whose
"auto" is bf16 on processors that are fast at it, once wholly in float32.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.digits_methods import plan
from cmtool import registry
from cmtool.workflows.fit import make_trainer

WARM = 3


def costs(teacher: Path, methods: list[str], rounds: int, *overrides: str) -> dict[str, float]:
    """Median seconds of a step of each method."""
    with tempfile.TemporaryDirectory() as folder:
        running = {
            method: make_trainer(plan(method, teacher, Path(folder) / method, *overrides)).steps()
            for method in methods
        }
        seconds: dict[str, list[float]] = {method: [] for method in methods}
        for _ in range(WARM + rounds):
            for method, steps in running.items():
                began = time.process_time()
                next(steps)
                seconds[method].append(time.process_time() - began)
        for steps in running.values():
            steps.close()
    return {method: median(taken[WARM:]) for method, taken in seconds.items()}


def main(teacher: Path, rounds: int, methods: list[str]) -> None:
    """Prints a table."""
    auto = costs(teacher, methods, rounds)
    full = costs(teacher, methods, rounds, "train.precision=no")
    print("| method | CPU time a step | of dsm's | in float32 | of dsm's |")
    print("|---|---|---|---|---|")
    for method in methods:
        a, b = auto[method], full[method]
        print(
            f"| `{method}` | {a * 1e3:.0f} ms | {a / auto['dsm']:.1f} "
            f"| {b * 1e3:.0f} ms | {b / full['dsm']:.1f} |"
        )


if __name__ == "__main__":
    chosen = [name for name in sys.argv[3:] or registry.names("losses") if name != "dsm"]
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 15, ["dsm", *chosen])
