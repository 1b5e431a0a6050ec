"""Inception score: exp of the mean divergence of a network's class probabilities from their mean.

Every division into parts gives another number; the two that are in use are here by name.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cmtool.metrics.frechet import Array


class Score(NamedTuple):
    """Mean and standard deviation (over all of them, not less one) of the parts' scores."""

    mean: float
    std: float


def probabilities(logits: NDArray[np.floating]) -> Array:
    """Softmax over classes (n, K), float64: for logits only, never for probabilities.

    Clean-fid's network file with `no_output_bias` gives probabilities already.
    """
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(1, keepdims=True)
    return x


def score_of_chunks(p: NDArray[np.floating], *, size: int = 5000) -> Score:
    """Score of chunks of 5,000 in order, the last may be shorter: as OpenAI's ADM evaluator.

    Source:
        Salimans et al. 2016, arXiv 1606.03498, Section 4; Dhariwal & Nichol 2021, arXiv 2105.05233.

    Args:
        p: Probabilities (n, K) from logits without bias.
        size: Images in a chunk.

    Raises:
        ValueError: These are no probabilities.
    """
    _check(p)
    return _scores(p[start : start + size] for start in range(0, len(p), size))


def score_of_splits(p: NDArray[np.floating], *, splits: int = 10, seed: int = 2020) -> Score:
    """Score of ten equal parts after a shuffle: as torch-fidelity 0.4, which has this seed.

    Source:
        Salimans et al. 2016, arXiv 1606.03498, Section 4.

    Args:
        p: Probabilities (n, K) from logits without bias, n >= splits.
        splits: How many parts.
        seed: For the shuffle.

    Raises:
        ValueError: These are no probabilities, or there are fewer than parts.
    """
    _check(p)
    if not 1 <= splits <= len(p):
        raise ValueError(f"{splits} parts need {splits} images or more, got {len(p)}")
    order = np.random.RandomState(seed).permutation(len(p))
    ends = [i * len(p) // splits for i in range(splits + 1)]
    return _scores(p[order[a:b]] for a, b in pairwise(ends))


def _scores(parts: Iterable[NDArray[np.floating]]) -> Score:
    found = []
    for part in parts:
        p = part.astype(np.float64)
        mean = p.mean(0)
        # Zero probabilities add nothing: p ln p goes to nought with p.
        rows = (p * np.log(np.where(p > 0, p, 1))).sum(1).mean()
        whole = (mean * np.log(np.where(mean > 0, mean, 1))).sum()
        found.append(np.exp(rows - whole))
    return Score(float(np.mean(found)), float(np.std(found)))


def _check(p: NDArray[np.floating]) -> None:
    if p.ndim != 2 or not len(p):
        raise ValueError(f"needs probabilities (n, K), got {p.shape}")
    sums = p.sum(1, dtype=np.float64)
    if not (p.min() >= 0 and np.abs(sums - 1).max() < 1e-3):
        raise ValueError("needs probabilities, which are not negative and add up to 1: no logits")
