"""The template of TrigFlow's consistency losses, sCM: continuous time, with a tamed tangent."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cmtool.denoiser import Denoiser, LogWeight
from cmtool.losses._jvp import TangentPrecision, jvp
from cmtool.losses.base import Loss, LossOutput, PrecondName, Roles, Step
from cmtool.tensors import Batch, expand, rms

EDGES = (0.1, 1.0, 10.0)
"""Noise levels that separate the bins in which the tangent's size is logged."""
LEVELS = (0.01, 0.1, 1.0, 10.0)
"""Noise levels at which the learned weight is logged."""


class Tangent(NamedTuple):
    """F (with its gradient) and what it should move by, before normalisation, (B, *) each; and the
    share (B,) that the network's derivative has in it."""

    output: Tensor
    g: Tensor
    share: Tensor


@dataclass(frozen=True)
class SCM(Loss):
    """e^w / sigma mean((F - stop(F + g / (|g| + c)))^2) - w, with f = cos(t) x_t - sin(t) sd F and

        g = -cos(t)^2 (sd F - dx/dt) - r (cos(t) sin(t) x_t + sd cos(t) sin(t) dF/dt)

    which is cos(t) df/dt at r = 1. r grows from 0, where the optimum is the diffusion model. w is
    learned. x_t = cos(t) x + sin(t) sd z is TrigFlow's whatever the run's schedule is; sd is the
    denoiser's sigma_data, and the network computes -F, as in EDM.

    Source:
        Lu & Song 2024, arXiv 2410.11081, Eq. 6 to 8 and Algorithm 1.

    Args:
        p_mean: Mean of ln sigma, sigma = sd tan(t).
        p_std: Standard deviation of ln sigma.
        tangent_warmup: Steps in which r grows from 0 to 1; 0 begins with 1.
        norm: |g| is its root mean square, "rms", or its vector norm, "l2": larger by sqrt(d) for d
            numbers in an image, so that the same c means sqrt(d) times as much with "rms".
        norm_c: c.
        prior: The factor beside the learned e^w: 1/sigma, or "uniform", 1.
        tangent_precision: "float32" keeps autocast and TF32 out of the network's pass, "autocast"
            takes the run's precision.
        tangent_limit: Largest ||dF/dt|| / ||F|| of the network that may be trained; see
            `cmtool.workflows._preflight`.
    """

    learns_weight: ClassVar[bool] = True
    uses_jvp: ClassVar[bool] = True
    uses_raw: ClassVar[bool] = True
    precond: ClassVar[PrecondName] = "edm"

    p_mean: float = -1.0
    p_std: float = 1.4
    tangent_warmup: int = 10_000
    norm: Literal["rms", "l2"] = "rms"
    norm_c: float = 0.1
    prior: Literal["inverse-sigma", "uniform"] = "inverse-sigma"
    tangent_precision: TangentPrecision = "float32"
    tangent_limit: float = 50.0

    def __post_init__(self) -> None:
        if not self.p_std > 0:
            raise ValueError(f"needs p_std > 0, got p_std={self.p_std}")
        if self.tangent_warmup < 0:
            raise ValueError(f"needs tangent_warmup >= 0, got tangent_warmup={self.tangent_warmup}")
        if not self.norm_c > 0:
            raise ValueError(f"needs norm_c > 0, got norm_c={self.norm_c}")
        if not self.tangent_limit > 0:
            raise ValueError(f"needs tangent_limit > 0, got tangent_limit={self.tangent_limit}")

    def describe(self, index: int, total: int) -> dict[str, float]:
        return {"r": min(index / self.tangent_warmup, 1.0) if self.tangent_warmup else 1.0}

    def __call__(self, roles: Roles, batch: Batch, step: Step) -> LossOutput:
        x, student, schedule = batch.x, roles.student, roles.teacher.schedule
        assert student.log_weight is not None
        sigma = (self.p_mean + self.p_std * step.rng.randn().to(x.dtype)).exp()
        z = step.rng.randn(*x.shape[1:]).to(x.dtype)
        t = schedule.from_sigma(sigma)
        with torch.no_grad():
            ends = roles.teacher.split(schedule.perturb(x, z, t), t, batch)
        stats = self.describe(step.index, step.total)
        tangent = self.tangent(student, batch, sigma, (x, z), ends, stats["r"])
        output, g = tangent.output, tangent.g
        size = rms(g) if self.norm == "rms" else g.flatten(1).norm(dim=1)
        aim = output.detach() + g / expand(size + self.norm_c, g)
        error = (output - aim).square().flatten(1).mean(1)
        prior = 1 / sigma if self.prior == "inverse-sigma" else torch.ones_like(sigma)
        w = student.log_weight(sigma)
        stats |= _stats(sigma, tangent, student.log_weight)
        return LossOutput(w.exp() * prior * error - w, sigma, stats)

    def tangent(
        self,
        student: Denoiser,
        batch: Batch,
        sigma: Tensor,
        start: tuple[Tensor, Tensor],
        ends: tuple[Tensor, Tensor],
        r: float,
    ) -> Tangent:
        """F and g at noise levels sigma (B,).

        Args:
            student: Whose.
            batch: Its labels and augmentations count, not its images.
            sigma: Noise levels.
            start: The image and the noise, (B, *) each, that x_t is made of.
            ends: The image and the noise, (B, *) each, that the trajectory at x_t leads to.
            r: Warm-up ratio.
        """
        sd = student.precond.sigma_data
        norm = (sigma.square() + sd**2).sqrt()
        cos, sin = expand(sd / norm, start[0]), expand(sigma / norm, start[0])
        x_t = cos * start[0] + sin * sd * start[1]
        velocity = cos * sd * ends[1] - sin * ends[0]

        def network(x_t: Tensor, sigma: Tensor) -> Tensor:
            told = {"augment": batch.augment, "guidance": batch.guidance}
            raw = student.raw(x_t / sd, sigma, batch.label, **told)
            return -raw.to(x_t.dtype)

        # d sigma/dt = sd / cos^2, so that cos sin dt moves sigma by sigma itself.
        output, change = jvp(
            network, (x_t, sigma), (cos * sin * velocity, sigma), self.tangent_precision
        )
        pull = -(cos**2) * (sd * output.detach() - velocity)
        shrink, change = -r * cos * sin * x_t, -r * sd * change.detach()
        share = rms(change) / (rms(pull) + rms(shrink) + rms(change)).clamp(min=1e-20)
        return Tangent(output, pull + shrink + change, share)


@torch.no_grad()
def _stats(sigma: Tensor, tangent: Tangent, log_weight: LogWeight) -> dict[str, float]:
    """Root mean square of g by bins of noise levels, share of the derivative, learned weight."""
    bins = torch.bucketize(sigma, torch.tensor(EDGES).to(sigma))
    inside = F.one_hot(bins, len(EDGES) + 1).to(sigma)
    count = inside.sum(0)
    size = (inside * rms(tangent.g)[:, None]).sum(0) / count
    curve = log_weight(torch.tensor(LEVELS).to(sigma))
    # One transfer from the device, not one for each number.
    numbers = torch.cat([size, tangent.share.mean()[None], curve]).tolist()
    names = [f"g_below_{edge:g}" for edge in EDGES] + [f"g_above_{EDGES[-1]:g}", "jvp_share"]
    names += [f"w_at_{level:g}" for level in LEVELS]
    empty = {names[i] for i, n in enumerate(count.tolist()) if n == 0}
    return {name: n for name, n in zip(names, numbers, strict=True) if name not in empty}
