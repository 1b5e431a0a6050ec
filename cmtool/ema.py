"""Exponential moving averages of a network's weights, kept in float32."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Ema:
    """An average of weights over the optimizer steps.

    With warm-up the rate at step k is min(rate, (k + 1) / (k + 10)), so that a young average is not
    dominated by the initial weights.

    Args:
        state: Weights by name, the first value.
        rate: Weight of the past at each step, in [0, 1).
        warmup: Whether a young average moves faster.
    """

    def __init__(self, state: Mapping[str, Tensor], rate: float, warmup: bool = True) -> None:
        self.rate = rate
        self.warmup = warmup
        self.weights = {k: v.detach().clone().float() for k, v in state.items()}

    def update(self, state: Mapping[str, Tensor], step: int) -> None:
        """Takes in the weights after optimizer step `step` (0-based)."""
        rate = min(self.rate, (step + 1) / (step + 10)) if self.warmup else self.rate
        mine = list(self.weights.values())
        theirs: list[Tensor] = [state[k].detach().to(v) for k, v in self.weights.items()]
        torch._foreach_lerp_(mine, theirs, 1 - rate)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replaces the average."""
        for key, value in self.weights.items():
            value.copy_(weights[key])
