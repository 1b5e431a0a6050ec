"""Are the noise levels that `cmtool eval search` finds better on noise it has not seen?

    python benchmarks/search_digits.py [runs/digits-cd] [N]

Searches two levels with N images (10,000) of seed 0, then measures found and default levels with
seeds 1 to 3. Evaluations of the search are kept in evals/, so a second call only measures.
"""

import sys
from pathlib import Path

import numpy as np

from cmtool.workflows.evaluate import Request, evaluate
from cmtool.workflows.search import Wanted, search

SEEDS = (1, 2, 3)


def main(model: Path, n: int) -> None:
    """Prints both tables."""
    report = search(Request(models=(str(model),), n=n), Wanted(), say=print)
    print(report.table())
    print(f"\nfresh noise, {n:,} images a seed")
    values = {}
    for name, times in (("default", report.default), ("found", report.times)):
        request = Request(
            metrics=("fd",),
            models=(str(model),),
            times=(",".join(map(repr, times)),),
            n=n,
            seeds=",".join(map(str, SEEDS)),
            features="pixel",
            bootstrap=0,
        )
        rows = evaluate(request).content["rows"]
        values[name] = np.array([row["figures"]["FD-pixel"]["value"] for row in rows])
        each = "  ".join(f"{value:.4f}" for value in values[name])
        print(f"{name:8}{request.times[0]:30}{each}  mean {values[name].mean():.4f}")
    gain = values["default"] - values["found"]
    print(f"gain {gain.mean():.4f} +- {gain.std(ddof=1) / len(gain) ** 0.5:.4f}")


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits-cd"),
        int(sys.argv[2]) if len(sys.argv) > 2 else 10_000,
    )
