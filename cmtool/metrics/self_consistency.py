"""How far a consistency function is from giving one image along one trajectory."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from cmtool.tensors import Denoise, rms

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t: (B, *), t: (B,), r: (B,)) -> x_r: (B, *), along the teacher's trajectory."""
Noisy = Callable[[Tensor], Tensor]
"""t: (B,) -> x_t: (B, *)."""


@torch.no_grad()
def self_consistency(
    f: Denoise, step: Step, edges: Tensor, x: Tensor, noisy: Noisy | None = None
) -> tuple[Tensor, Tensor]:
    """|f(x_t, t) - f(x_r, r)| in each bin of noise levels, x_r being on the trajectory through x_t.

    The root mean square over an image's values. An exact consistency function has 0 everywhere. The
    boundary condition f(x, t_min) = x makes 0 possible for nothing else, and bounds the whole error
    at t_max by the sum over the bins.

    Source:
        Song et al. 2023, arXiv 2303.01469, Definition 1 and Theorem 1.

    Args:
        f: The consistency function.
        step: The teacher.
        edges: (K + 1,) decreasing times.
        x: (B, *) noisy images at edges[0].
        noisy: Begins each bin anew, at its upper edge; None follows one trajectory through all.

    Returns:
        The errors (K, B), and the images at the last edge (B, *).
    """
    errors = []
    times = [t.expand(len(x)).to(x.device) for t in edges]
    f_t = f(x, times[0])
    for number, (t, r) in enumerate(pairwise(times)):
        if noisy is not None and number:
            x = noisy(t)
            f_t = f(x, t)
        x = step(x, t, r).to(x)
        f_r = f(x, r)
        errors.append(rms(f_t - f_r))
        f_t = f_r
    return torch.stack(errors), x
