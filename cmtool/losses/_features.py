"""Distances as squared Euclidean distances of features: what the continuous-time limit needs."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cmtool.losses._distance import DistanceName, lpips_input, lpips_network


def features(name: DistanceName, device: torch.device) -> Callable[[Tensor], Tensor]:
    """phi in distance(a, b) = ||phi(a) - phi(b)||^2, for l2 and LPIPS: (B, C, H, W) -> (B, K).

    So half the Hessian of the distance in b at b = a is J^T J, J the Jacobian of phi. For l1, whose
    limit needs no Hessian, phi is l2's.

    Args:
        name: A distance.
        device: Where the images will be. A network must be there before a derivative is begun:
            weights that were moved inside one would belong to it.
    """
    if name in ("l1", "l2"):
        return lambda a: a.flatten(1) / math.sqrt(a[0].numel())
    network: Any = lpips_network(name).to(device)

    def perceptual(a: Tensor) -> Tensor:
        # In float32 whatever the run's precision: differences of features are small.
        with torch.autocast(a.device.type, enabled=False):
            layers = network.net(network.scaling_layer(lpips_input(a)))
            parts = [
                _unit(x) * (head.model[-1].weight[0] / (x.shape[2] * x.shape[3])).sqrt()
                for x, head in zip(layers, network.lins, strict=True)
            ]
        return torch.cat([part.flatten(1) for part in parts], 1)

    return perceptual


def _unit(x: Tensor) -> Tensor:
    """x over its norm across channels; 0, with derivative 0, where all channels are."""
    square = x.square().sum(1, keepdim=True)
    return x / (torch.where(square > 0, square, 1).sqrt() + 1e-10)
