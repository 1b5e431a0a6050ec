"""How long a call takes: the median of repeated calls, after some that do not count."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Timing(NamedTuple):
    """Seconds of one call: the median and the quartiles around it."""

    median: float
    low: float
    high: float


def timings(
    calls: Sequence[Callable[[], object]],
    repeats: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Times several calls in turn, so that what disturbs the machine disturbs all of them alike.

    Args:
        calls: Each has done its work when it returns.
        repeats: Rounds that count.
        warm_up: Rounds before them.
        clock: In seconds.
    """
    seconds = np.zeros((repeats, len(calls)))
    for number in range(-warm_up, repeats):
        for column, call in enumerate(calls):
            began = clock()
            call()
            if number >= 0:
                seconds[number, column] = clock() - began
    found = np.quantile(seconds, [0.5, 0.25, 0.75], axis=0)
    return [Timing(*map(float, column)) for column in found.T]
