"""Exponential moving averages of a network's weights, kept in float32."""

import torch
from torch import Tensor, nn


class Ema:
    """An average of a network's weights over the optimizer steps.

    With warm-up the rate at step k is min(rate, (k + 1) / (k + 10)), so that a young average is not
    dominated by the initial weights.

    Args:
        network: Its weights are the first value.
        rate: Weight of the past at each step, in [0, 1).
        warmup: Whether a young average moves faster.
    """

    def __init__(self, network: nn.Module, rate: float, warmup: bool = True) -> None:
        self.rate = rate
        self.warmup = warmup
        self.weights = {k: v.detach().clone().float() for k, v in network.state_dict().items()}

    def update(self, network: nn.Module, step: int) -> None:
        """Takes in the weights after optimizer step `step` (0-based)."""
        rate = min(self.rate, (step + 1) / (step + 10)) if self.warmup else self.rate
        new = network.state_dict()
        mine = list(self.weights.values())
        theirs: list[Tensor] = [new[k].detach().to(v) for k, v in self.weights.items()]
        torch._foreach_lerp_(mine, theirs, 1 - rate)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Replaces the average."""
        for key, value in self.weights.items():
            value.copy_(weights[key])
