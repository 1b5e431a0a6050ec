"""What an ODE solver is: one step along the probability-flow ODE, without a memory of its own.

Solvers work in the frame y = x / alpha, lambda = sigma / alpha, where every schedule's ODE is the
same,

    dy / dlambda = (y - x0_hat) / lambda,

so each is written once. Multistep methods are handed the points that the path went through.

Source:
    Karras et al. 2022, arXiv 2206.00364, Eq. 4 and Section 4; the frame as in Lu et al. 2022, arXiv
    2206.00927.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

from cmtool.schedules.base import Schedule
from cmtool.tensors import Denoise, expand

MEMORY = 3
"""Past points that a path keeps; no solver looks back further."""

SET_BY_PATH = "set by path"
"""In the metadata of a field: a path chooses its value, see `Solver.path` and `Solver.among`."""


class Point(NamedTuple):
    """A time of the path, (B,), the noisy images there, (B, *), and the denoiser's answer, (B,
    *)."""

    t: Tensor
    x: Tensor
    x0_hat: Tensor


class Noise(Protocol):
    """Where a stochastic solver gets its noise."""

    def randn(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape) standard normal numbers."""


class Solver(ABC):
    """One step of an ODE solver; `stochastic` ones add noise on the way."""

    stochastic: ClassVar[bool] = False

    @property
    @abstractmethod
    def order(self) -> int:
        """Global order; of a multistep method once it has its full history."""

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Network evaluations a step."""

    @abstractmethod
    def step(
        self,
        denoise: Denoise,
        schedule: Schedule,
        x: Tensor,
        t: Tensor,
        r: Tensor,
        *,
        history: Sequence[Point] = (),
        rng: Noise | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Moves x from times t to times r.

        Args:
            denoise: The denoiser.
            schedule: What x, t and r mean.
            x: (B, *) noisy images at t.
            t: (B,) their times.
            r: (B,) where to go, t_min <= r <= t.
            history: The path so far, the newest last. Multistep methods take their lower orders
                while it is short.
            rng: Noise for a stochastic solver.

        Returns:
            (B, *) images at r and the denoiser's answer at t, (B, *).
        """

    def path(self, nfe: int, euler: "Solver") -> tuple["Solver", ...]:
        """The steps that spend `nfe` evaluations: as many of this solver as fit, then Euler's."""
        full, rest = divmod(nfe, self.nfe)
        return (self,) * full + (euler,) * rest

    def among(self, levels: int) -> "Solver":
        """This solver on a path of so many noise levels."""
        return self


def to_frame(schedule: Schedule, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(x, t) -> (y, lambda), lambda shaped to broadcast over y."""
    y, lam = schedule.to_edm(x, t)
    return y, expand(lam, x)


def from_frame(schedule: Schedule, y: Tensor, t: Tensor) -> Tensor:
    """(y, t) -> x."""
    return expand(schedule(t).alpha, y) * y


def level(schedule: Schedule, t: Tensor, like: Tensor) -> Tensor:
    """lambda at times t, shaped to broadcast over `like`."""
    return expand(schedule.sigma(t), like)
