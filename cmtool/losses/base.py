"""What a training objective is, and the template that discrete consistency losses share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from cmtool.denoiser import Denoiser, Kind
from cmtool.losses._distance import DistanceName, distance
from cmtool.rng import StepRng, replay, rng_state
from cmtool.teacher import Teacher
from cmtool.tensors import Batch


class Roles(NamedTuple):
    """Who takes part: the student learns, the target (a slow copy, or the student itself) and the
    teacher answer."""

    student: Denoiser
    target: Denoiser
    teacher: Teacher


@dataclass(frozen=True)
class Step:
    """Where in training we are: optimizer step `index` (from 0) of `total`, and its random
    numbers."""

    index: int
    total: int
    rng: StepRng


class LossOutput(NamedTuple):
    """Unreduced losses (B,), the noise levels (B,) they were taken at, and scalars to log."""

    loss: Tensor
    sigma: Tensor
    stats: dict[str, float]


PrecondName = Literal["edm", "consistency"]
Weighting = Literal["uniform", "karras", "snr", "snr+1", "truncated-snr", "inverse-gap"]


def weight(name: Weighting, t: Tensor, r: Tensor, sigma_data: float) -> Tensor:
    """lambda(t) for every sample, t and r as noise levels: (B,) and (B,) -> (B,).

    Source:
        The names of the released code: karras is EDM's 1/t^2 + 1/sigma_data^2. inverse-gap, 1/(t -
        r), is Song & Dhariwal 2023, arXiv 2310.14189, Eq. 9.
    """
    snr = t**-2
    match name:
        case "uniform":
            return torch.ones_like(t)
        case "karras":
            return snr + sigma_data**-2
        case "snr":
            return snr
        case "snr+1":
            return snr + 1
        case "truncated-snr":
            return snr.clamp(min=1)
        case "inverse-gap":
            return 1 / (t - r)


class Stage(NamedTuple):
    """A part of training with a teacher of its own: steps `first` .. `end` - 1 train a student that
    Euler's method samples in `intervals` steps."""

    first: int
    end: int
    intervals: int


class Loss(ABC):
    """A training objective; a subclass is a frozen dataclass whose fields are its recipe keys.

    `needs_teacher_model`: it distils. `learns_weight`: the student gets a `log_weight`. `uses_jvp`:
    it takes the network's derivative along a trajectory. `uses_raw`: it reads the network's own
    output and takes its scalings for EDM's. `kind`: what the student becomes. `precond`: the form
    of a distilled student; "edm" allows no other form anywhere.
    """

    needs_teacher_model: ClassVar[bool]
    learns_weight: ClassVar[bool] = False
    uses_jvp: ClassVar[bool] = False
    uses_raw: ClassVar[bool] = False
    kind: ClassVar[Kind] = "consistency"
    precond: ClassVar[PrecondName] = "consistency"

    @abstractmethod
    def __call__(self, roles: Roles, batch: Batch, step: Step) -> LossOutput:
        """The loss of every image of the batch."""

    def target_decay(self, index: int, total: int) -> float:
        """Weight of the past in the target's average after step `index`; 0 means that the target is
        the student."""
        return 0.0

    def stage(self, index: int, total: int) -> Stage | None:
        """The stage of a step, if the loss has stages. At the start of each but the first, the
        student becomes the teacher; optimizer, averages and learning rate start anew."""
        return None

    def describe(self, index: int, total: int) -> dict[str, float]:
        """The curriculum's values at a step, for the log and `--dry-run`."""
        return {}


@dataclass(frozen=True)
class PairLoss(Loss):
    """Template of the discrete losses: student at t, target at r < t, on the same trajectory.

    Args:
        distance: How two outputs are compared.
        huber_c: c of the pseudo-Huber distance; None is 0.00054 sqrt(d) for d numbers in an image,
            0 makes it the norm.
        weighting: lambda(t).
    """

    distance: DistanceName = "pseudo-huber"
    huber_c: float | None = None
    weighting: Weighting = "uniform"

    def __post_init__(self) -> None:
        if self.huber_c is not None and not self.huber_c >= 0:
            raise ValueError(f"needs huber_c >= 0, got huber_c={self.huber_c}")

    @abstractmethod
    def pairs(self, roles: Roles, step: Step) -> tuple[Tensor, Tensor]:
        """Draws times t > r, each (B,) float32 on the draws' device."""

    def __call__(self, roles: Roles, batch: Batch, step: Step) -> LossOutput:
        x = batch.x
        t, r = self.pairs(roles, step)
        z = step.rng.randn(*x.shape[1:])
        x_t = roles.teacher.schedule.perturb(x, z, t)
        with torch.no_grad():
            x_r = roles.teacher.step(x_t, t, r, batch)
        f_t, f_r = self.outputs(roles, batch, (x_t, t), (x_r, r))
        schedule = roles.teacher.schedule
        sigma, sigma_r = schedule.sigma(t), schedule.sigma(r)
        weights = weight(self.weighting, sigma, sigma_r, roles.student.precond.sigma_data)
        loss = weights * distance(self.distance, f_t, f_r, self.huber_c)
        return LossOutput(loss, sigma, self.describe(step.index, step.total))

    def outputs(
        self, roles: Roles, batch: Batch, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The student's answer at `start` = (x_t, t), and without gradients the target's at `end` =
        (x_r, r)."""
        # Both must drop the same units, else the loss does not vanish where they agree.
        device = batch.x.device
        state = rng_state(device)
        f_t = roles.student.for_batch(batch)(*start)
        with torch.no_grad(), replay(state, device):
            f_r = roles.target.for_batch(batch)(*end)
        return f_t, f_r
