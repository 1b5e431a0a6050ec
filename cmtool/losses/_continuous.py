"""The template of the consistency losses in the limit of infinitely many noise levels."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.losses._features import features
from cmtool.losses._jvp import TangentPrecision, jvp
from cmtool.losses.base import Loss, LossOutput, Roles, Step
from cmtool.tensors import Batch


@dataclass(frozen=True)
class ContinuousLoss(Loss):
    """How fast f changes along the trajectory, at times spread evenly over the schedule's grid.

    With phi' the derivative of phi(f(x_t, t)) with respect to t along the ODE, phi the distance's
    features (pixels for l1 and l2):

        without stop-gradient   l2, LPIPS: ||phi'||^2      l1: the mean of |f'|
        with it                 ||phi(f) - stop(phi(f) - phi')||^2, of the same value

    For r -> t the first is the discrete loss d(f(x_t, t), f-(x_r, r)) over (t - r)^2 (l1: over
    t - r); the gradient of the second is the discrete loss's gradient over t - r.

    `form` says whose constants: "paper" are these. "openai" are the released code's: without
    stop-gradient the root of l2 and twice LPIPS, with it half of l2. The code sums l2 over pixels;
    here it is the mean, as everywhere.

    Source:
        Song et al. 2023, arXiv 2303.01469, Appendix B.1, Theorems 3 to 6, with the weighting that
        cancels the derivative of the time grid, as in the released code.

    Args:
        distance: "l1", "l2" or an LPIPS.
        stop_gradient: No gradient flows through the derivative.
        form: "paper" or "openai".
        tangent_precision: "float32" keeps autocast and TF32 out of the network's pass, "autocast"
            takes the run's precision.
        tangent_limit: Largest ||dF/dt|| / ||F|| of the network that may be trained; see
            `cmtool.workflows._preflight`.
    """

    uses_jvp: ClassVar[bool] = True

    distance: Literal["l1", "l2", "lpips-vgg", "lpips-vgg-avg", "lpips-alex"] = "l2"
    stop_gradient: bool = True
    form: Literal["paper", "openai"] = "paper"
    tangent_precision: TangentPrecision = "float32"
    tangent_limit: float = 50.0

    def __post_init__(self) -> None:
        names = ("l2", "lpips-vgg", "lpips-vgg-avg", "lpips-alex")
        known = names if self.stop_gradient else ("l1", *names)
        if self.distance not in known:
            raise ValueError(
                f"needs distance one of {', '.join(known)} with stop_gradient="
                f"{str(self.stop_gradient).lower()}, got distance={self.distance}"
            )
        if not self.tangent_limit > 0:
            raise ValueError(f"needs tangent_limit > 0, got tangent_limit={self.tangent_limit}")

    def __call__(self, roles: Roles, batch: Batch, step: Step) -> LossOutput:
        x, schedule = batch.x, roles.teacher.schedule
        ends = torch.tensor(schedule.span, dtype=torch.float64)
        low, high = schedule.warp(ends).tolist()
        t = schedule.unwarp(low + (high - low) * step.rng.rand().to(x.dtype))
        x_t = schedule.perturb(x, step.rng.randn(*x.shape[1:]).to(x.dtype), t)
        with torch.no_grad():
            velocity = roles.teacher.velocity(x_t, t, batch)
        denoise, seen = roles.student.for_batch(batch), features(self.distance, x.device)
        phi, change = jvp(
            lambda x_t, t: seen(denoise(x_t, t)),
            (x_t, t),
            (velocity, torch.ones_like(t)),
            self.tangent_precision,
        )
        return LossOutput(self._compare(phi, change), schedule.sigma(t), {})

    def _compare(self, phi: Tensor, change: Tensor) -> Tensor:
        """phi and its derivative, (B, K) each, to losses (B,)."""
        released, l2 = self.form == "openai", self.distance == "l2"
        if self.stop_gradient:
            loss = (phi - (phi - change).detach()).square().sum(1)
            return loss / 2 if released and l2 else loss
        if self.distance == "l1":
            return change.abs().mean(1) * math.sqrt(change.shape[1])
        if released and l2:
            # Its gradient is 0, not infinite, where the derivative vanishes.
            norm: Tensor = torch.linalg.vector_norm(change, dim=1)
            return norm
        loss = change.square().sum(1)
        return 2 * loss if released else loss
