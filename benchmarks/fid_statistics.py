"""Measures the statistics part of FID against clean-fid's: mean, covariance and distance.

10,000 features of 2,048 dimensions against a reference whose statistics are there already: mean and
covariance for clean-fid, mean and root for cmtool. Both times come from the same run, in turns, so
the ratio holds where the times do not. Most of clean-fid's time is SciPy's `sqrtm`, whose speed
depends on SciPy's version. From the repository's root, with cmtool and its extra dev installed:
`python benchmarks/fid_statistics.py`.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy
import torch
from cleanfid import fid

from cmtool.metrics.frechet import Running, frechet_distance

N, D, BATCH = 10_000, 2048, 256


def features(seed: int) -> np.ndarray:
    """Correlated, mostly above nought and float32, as a network's pooled features are."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((D, D), np.float32) / D**0.5
    spread = np.linspace(0.05, 0.6, D, dtype=np.float32) * (1 + 0.1 * seed)
    return np.maximum(rng.standard_normal((N, D), np.float32) @ mix * spread + 0.3, 0)


def timed(run: Callable[[], float]) -> tuple[float, float]:
    """Seconds that it takes, and what it gives."""
    start = time.perf_counter()
    value = float(run())
    return time.perf_counter() - start, value


def main() -> None:
    """Prints both times of each round, and the ratio of the shortest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")  # SciPy's, about the argument `disp`
    sample, reference = features(0), features(1)
    running = Running()
    running.add(reference)
    moments = running.moments()
    rooted = moments.rooted()

    def theirs() -> float:
        mean, covariance = np.mean(sample, axis=0), np.cov(sample, rowvar=False)
        return fid.frechet_distance(mean, covariance, moments.mean, moments.covariance)

    def ours() -> float:
        running = Running()
        for start in range(0, N, BATCH):
            running.add(sample[start : start + BATCH])
        return frechet_distance(running.moments(), rooted)

    print(f"n {N:,}, d {D}, {torch.get_num_threads()} thread(s)")
    print(f"SciPy {scipy.__version__}, NumPy {np.__version__}, torch {torch.__version__}")
    found = []
    for _ in range(rounds):
        (slow, expected), (fast, value) = timed(theirs), timed(ours)
        found.append((slow, fast))
        print(f"clean-fid {slow:6.2f} s ({expected:.8g})   cmtool {fast:6.2f} s ({value:.8g})")
    slow, fast = (min(times) for times in zip(*found, strict=True))
    print(f"ratio {slow / fast:.1f}")


if __name__ == "__main__":
    main()
