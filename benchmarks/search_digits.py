"""Are the noise levels that `cmtool eval search` finds better on noise it has not seen?

    python benchmarks/search_digits.py [runs/digits-cd] [N]

Searches two levels with N images (10,000) of seed 0, then measures found and default levels with
seeds 1 to 3. Evaluations of the search are kept in evals/, so a second call only measures.
"""

import sys
from pathlib import Path

import numpy as np

from cmtool.workflows.evaluate import Request, frechet
from cmtool.workflows.search import Wanted, search

SEEDS = (1, 2, 3)


def main(model: Path, n: int) -> None:
    """Prints both tables."""
    report = search(Request(model, n=n), Wanted(), say=print)
    print(report.table())
    print(f"\nfresh noise, {n:,} images a seed")
    values = {}
    for name, times in (("default", report.default), ("found", report.times)):
        typed = ",".join(map(repr, times))
        scores = [frechet(Request(model, n=n, seed=seed), times=typed) for seed in SEEDS]
        values[name] = np.array([score.value for score in scores])
        each = "  ".join(f"{value:.4f}" for value in values[name])
        print(f"{name:8}{typed:30}{each}  mean {values[name].mean():.4f}")
    gain = values["default"] - values["found"]
    print(f"gain {gain.mean():.4f} +- {gain.std(ddof=1) / len(gain) ** 0.5:.4f}")


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits-cd"),
        int(sys.argv[2]) if len(sys.argv) > 2 else 10_000,
    )
