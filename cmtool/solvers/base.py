"""What an ODE solver is: one stateless step along the probability-flow ODE.

Solvers work in the frame y = x / alpha, lambda = sigma / alpha, where every schedule's ODE is the
same,

    dy / dlambda = (y - x0_hat) / lambda,

so each is written once.

Source:
    Karras et al. 2022, arXiv 2206.00364, Eq. 4 and Section 4; the frame as in Lu et al. 2022, arXiv
    2206.00927.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.tensors import Denoise, expand


class Solver(ABC):
    """One step of an ODE solver. `order` is its global order, `nfe` its network evaluations a step;
    both are tested."""

    order: ClassVar[int]
    nfe: ClassVar[int]

    @abstractmethod
    def step(self, denoise: Denoise, schedule: Schedule, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Moves x from times t to times r.

        Args:
            denoise: The denoiser.
            schedule: What x, t and r mean.
            x: (B, *) noisy images at t.
            t: (B,) their times.
            r: (B,) where to go, t_min <= r <= t.

        Returns:
            (B, *) images at r.
        """


def to_frame(schedule: Schedule, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(x, t) -> (y, lambda), lambda shaped to broadcast over y."""
    y, lam = schedule.to_edm(x, t)
    return y, expand(lam, x)


def from_frame(schedule: Schedule, y: Tensor, t: Tensor) -> Tensor:
    """(y, t) -> x."""
    return expand(schedule(t).alpha, y) * y
