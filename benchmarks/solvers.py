"""Every solver on a Gaussian mixture with the exact score: the error against the evaluations.

    python benchmarks/solvers.py [SCHEDULE]

The data lie in the plane, six narrow Gaussians of unequal weight. 256 starts are solved from
sigma 80 to 0.002, the closing denoising included, as `cmtool sample --steps N` would; the error is
the root mean square distance to the same path solved with 1,000 steps of DPM-Solver-3. A solver
that adds noise has no path to keep to: for it and for Euler's method a second table has the
distance between the distributions of 4,000 samples and the data (energy distance).
"""

import math
import sys

import torch
from torch import Tensor

from cmtool import registry
from cmtool.sampling import sample_ode
from cmtool.schedules.base import Schedule
from cmtool.solvers.base import Solver
from cmtool.solvers.deis import DEIS
from cmtool.solvers.dpm_solver_fast import DPMSolverFast
from cmtool.solvers.dpmpp_2m import DPMpp2M
from cmtool.solvers.dpmpp_3m import DPMpp3M
from cmtool.solvers.euler import Euler
from cmtool.solvers.heun import Heun
from cmtool.solvers.midpoint import Midpoint
from cmtool.solvers.unipc import UniPC

NFES = (5, 8, 10, 15, 20, 25, 35, 50)
STARTS, MANY, SPREAD = 256, 4000, 0.15
ODE_SOLVERS: dict[str, Solver] = {
    "euler": Euler(),
    "heun": Heun(),
    "midpoint": Midpoint(),
    "dpm-solver-fast": DPMSolverFast(),
    "dpmpp-2m": DPMpp2M(),
    "dpmpp-3m": DPMpp3M(),
    "deis, order 2": DEIS(order=2),
    "deis, order 3": DEIS(order=3),
    "unipc, p = 2": UniPC(predictor=2),
    "unipc, p = 3": UniPC(predictor=3),
}
STOCHASTIC = ("ancestral", "churn")


class Mixture:
    """Gaussians in the plane, and their exact denoiser."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        angle = torch.arange(6, dtype=torch.float64) * math.pi / 3
        self.means = 0.8 * torch.stack([angle.cos(), angle.sin()], 1)
        self.weights = torch.arange(1, 7, dtype=torch.float64) / 21

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t]: (B, 2) and (B,) -> (B, 2)."""
        y, lam = self.schedule.to_edm(x, t)
        lam = lam[:, None]
        variance = SPREAD**2 + lam**2
        square = (y[:, None] - self.means).square().sum(-1)
        shares = (self.weights.log() - square / (2 * variance)).softmax(1)
        nearest = shares @ self.means
        return nearest + SPREAD**2 / variance * (y - nearest)

    def draw(self, n: int) -> Tensor:
        """(n, 2) samples of the data."""
        chosen = self.means[torch.multinomial(self.weights, n, replacement=True)]
        return chosen + SPREAD * torch.randn(n, 2, dtype=torch.float64)


class Normal:
    """torch's own normal numbers for n samples."""

    def __init__(self, n: int) -> None:
        self.n = n

    def randn(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(self.n, *shape, dtype=torch.float64)


def solve(solver: Solver, schedule: Schedule, nfe: int, n: int) -> Tensor:
    """(n, 2) samples from the same starts each time, with `nfe` evaluations."""
    torch.manual_seed(0)
    path = solver.path(nfe - 1, Euler())
    times = schedule.grid(len(path) + 1)
    x = schedule(times[0]).sigma * torch.randn(n, 2, dtype=torch.float64)
    path = tuple(step.among(len(times)) for step in path)
    return sample_ode(Mixture(schedule).denoise, schedule, path, x, times, rng=Normal(n))


def errors(
    schedule: Schedule, nfes: tuple[int, ...] = NFES, truth_steps: int = 1000
) -> dict[str, list[float]]:
    """For each solver the error at each number of evaluations."""
    truth = solve(DPMSolverFast(), schedule, 3 * truth_steps + 1, STARTS)

    def error(solver: Solver, nfe: int) -> float:
        return float((solve(solver, schedule, nfe, STARTS) - truth).square().sum(1).mean().sqrt())

    return {name: [error(s, nfe) for nfe in nfes] for name, s in ODE_SOLVERS.items()}


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|A - B| - E|A - A'| - E|B - B'|, zero for equal distributions alone."""
    n, m = len(a), len(b)
    among = torch.cdist(a, a).sum() / (n * (n - 1)) + torch.cdist(b, b).sum() / (m * (m - 1))
    return float(2 * torch.cdist(a, b).mean() - among)


def table(rows: dict[str, list[float]], digits: str) -> None:
    """Prints rows under the numbers of evaluations."""
    print("| solver | " + " | ".join(map(str, NFES)) + " |")
    print("|---|" + "---|" * len(NFES))
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:{digits}}" for value in values) + " |")


def main(name: str) -> None:
    """Prints both tables."""
    schedule = registry.load("schedules", name)()
    print(f"schedule {name}, root mean square error of the end of a path\n")
    table(errors(schedule), ".2g")
    torch.manual_seed(1)
    data, other = (Mixture(schedule).draw(MANY) for _ in range(2))
    print(
        f"\nenergy distance to the data (two draws of data: {energy_distance(data, other):.1e})\n"
    )
    solvers = {"euler": Euler(), "heun": Heun()}
    solvers |= {key: registry.load("solvers", key)() for key in STOCHASTIC}
    rows = {
        key: [energy_distance(solve(solver, schedule, nfe, MANY), data) for nfe in NFES]
        for key, solver in solvers.items()
    }
    table(rows, ".1e")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "karras")
