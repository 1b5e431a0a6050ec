"""Denoising score matching: trains an EDM diffusion model, the teacher of everything else."""

from dataclasses import dataclass
from typing import ClassVar

from cmtool.denoiser import Kind
from cmtool.losses.base import Loss, LossOutput, Roles, Step, weight
from cmtool.tensors import Batch


@dataclass(frozen=True)
class DSM(Loss):
    """lambda(t) mean((D(x + t z, t) - x)^2), ln t ~ N(p_mean, p_std^2), lambda = 1/t^2 + 1/sd^2.

    On TrigFlow's schedule this is its velocity loss mean((sd F - dx_t/dt)^2) / sd^2, because the
    weight is 1 / c_out^2.

    Source:
        Karras et al. 2022, arXiv 2206.00364, Table 1 and Eq. 2. They sum over pixels; this is the
        mean, as in the consistency-model code, so that the learning rate does not depend on the
        image size.

    Args:
        p_mean: Mean of ln t.
        p_std: Standard deviation of ln t.
    """

    needs_teacher_model: ClassVar[bool] = False
    kind: ClassVar[Kind] = "diffusion"

    p_mean: float = -1.2
    p_std: float = 1.2

    def __post_init__(self) -> None:
        if not self.p_std > 0:
            raise ValueError(f"needs p_std > 0, got p_std={self.p_std}")

    def __call__(self, roles: Roles, batch: Batch, step: Step) -> LossOutput:
        x, schedule = batch.x, roles.teacher.schedule
        sigma = (self.p_mean + self.p_std * step.rng.randn()).exp()
        t = schedule.from_sigma(sigma)
        x_t = schedule.perturb(x, step.rng.randn(*x.shape[1:]), t)
        error = (roles.student.for_batch(batch)(x_t, t) - x).square().flatten(1).mean(1)
        weights = weight("karras", sigma, sigma, roles.student.precond.sigma_data)
        return LossOutput(weights * error, sigma, {})
