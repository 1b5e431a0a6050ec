"""Every method on the smallest curved problem: one pixel that is black or white.

    python benchmarks/two_points.py [STEPS] [METHOD ...]

The truth is known: the probability-flow ODE moves quantiles, so the exact one-step map takes x at
sigma_max to F_min^-1(F_max(x)), with F_s the distribution of +-1 plus noise s. The error is the
mean of |f(x) - truth| over 4,000 starts; the spread of the pixel itself is 1. A small network is
first trained as a diffusion model, the teacher, from which every method starts.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import cmtool
from cmtool import images, registry
from cmtool.rng import SeedRng
from cmtool.workflows import distill, train
from cmtool.workflows.fit import Job, Listeners, fit

SIGMA_MIN, SIGMA_MAX, STARTS = 0.002, 80.0, 4000
SMALL = ("network.width=32", "network.blocks=2", "denoiser.sigma_data=1.0", "train.precision=no")


def truth(x: Tensor) -> Tensor:
    """The exact one-step map, (n,) float64, by bisection."""
    quantile = _distribution(x, SIGMA_MAX)
    low, high = torch.full_like(x, -2.0), torch.full_like(x, 2.0)
    for _ in range(60):
        middle = (low + high) / 2
        above = _distribution(middle, SIGMA_MIN) > quantile
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def _distribution(x: Tensor, sigma: float) -> Tensor:
    return (torch.special.ndtr((x - 1) / sigma) + torch.special.ndtr((x + 1) / sigma)) / 2


def error(model: Path) -> float:
    """Mean distance of one step from the exact map."""
    x = SeedRng(0, range(STARTS)).randn((1, 1, 1)).double().flatten() * SIGMA_MAX
    drawn = cmtool.sample(model, STARTS, steps=1).flatten().double()
    return float((drawn - truth(x)).abs().mean())


def run(method: str, folder: Path, steps: int) -> Path:
    """Trains a method in `folder`, which also holds the data and the teacher."""
    out = folder / method
    lasting = (f"data.name={folder / 'data'}", "data.conditional=false", f"train.steps={steps}")
    job = Job(f"digits/{method}", overrides=(*lasting, *SMALL), out=out, overwrite=True)
    if registry.load("losses", method).needs_teacher_model:
        # The teacher's network and sigma_data are taken over.
        job = Job(
            f"digits/{method}",
            overrides=(*lasting, "train.precision=no"),
            out=out,
            overwrite=True,
        )
        fit(distill.plan(job, folder / "dsm", {}, Listeners()), Listeners())
    else:
        start = None if method == "dsm" else folder / "dsm"
        fit(train.plan(job, start, {}, Listeners()), Listeners())
    return out


def make_data(folder: Path) -> None:
    """One black and one white pixel."""
    for name, value in (("black", 0), ("white", 255)):
        images.save_png(folder / "data" / f"{name}.png", np.full((1, 1, 1), value, np.uint8))


def main(steps: int, methods: list[str]) -> None:
    """Prints a row for each method as it ends."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        run("dsm", folder, 2 * steps)
        print(f"| method ({steps} steps) | mean error of one step |\n|---|---|")
        for method in methods:
            print(f"| `{method}` | {error(run(method, folder, steps)):.3f} |", flush=True)


if __name__ == "__main__":
    chosen = sys.argv[2:] or [m for m in registry.names("losses") if m != "dsm"]
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, chosen)
