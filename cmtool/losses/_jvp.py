"""Derivatives along a trajectory, in forward mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

TangentPrecision = Literal["float32", "autocast"]


def jvp(
    function: Callable[[Tensor, Tensor], Tensor],
    primals: tuple[Tensor, Tensor],
    tangents: tuple[Tensor, Tensor],
    precision: TangentPrecision,
) -> tuple[Tensor, Tensor]:
    """function(*primals) and its derivative in the direction of `tangents`, from one forward pass.

    Both carry gradients; dropout drops the same units in both.

    Args:
        function: Takes images (B, *) and times (B,).
        primals: Where.
        tangents: Which way.
        precision: "float32" leaves autocast and TF32 out of the pass, "autocast" takes what the run
            has: a tangent is a difference of large numbers, and bf16 leaves it 4 % of noise.
    """
    with _full_precision(primals[0].device, precision == "float32"):
        value, tangent, *_ = torch.func.jvp(function, primals, tangents)
    return value, tangent


@contextmanager
def _full_precision(device: torch.device, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
