"""The teacher: where does the trajectory go from here?

Consistency training is consistency distillation with another teacher: the data itself.
"""

from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from cmtool.denoiser import Denoiser
from cmtool.errors import RecipeError
from cmtool.schedules.base import Schedule
from cmtool.solvers.base import MEMORY, Point, Solver
from cmtool.tensors import Batch, Denoise, expand


@dataclass(frozen=True)
class Teacher:
    """One step down the probability-flow ODE, by a frozen model or by the data.

    Without a model the clean image stands in for the denoiser; with Euler's method that gives
    alpha_r x + sigma_r z exactly, the pair of consistency training.

    Source:
        Song et al. 2023, arXiv 2303.01469, Eq. 6 (distillation) and Eq. 10 (training).

    Args:
        schedule: The noising process.
        solver: Takes the step.
        denoiser: A diffusion model, or None for the data.
        guidance: Weight of guidance in the model's answers; 1 is off. Weights that were drawn for a
            batch come before it.
        substeps: Solver steps for one call of `step`; they share one history.

    Raises:
        RecipeError: The solver adds noise.
    """

    schedule: Schedule
    solver: Solver
    denoiser: Denoiser | None = None
    guidance: float = 1.0
    substeps: int = 1

    def __post_init__(self) -> None:
        if self.solver.stochastic:
            name = type(self.solver).__name__.lower()
            raise RecipeError(
                f"solver '{name}' adds noise; a teacher must follow its trajectory",
                "--set solver.name=heun",
            )

    def step(self, x_t: Tensor, t: Tensor, r: Tensor, batch: Batch) -> Tensor:
        """Moves (B, *) noisy images of `batch` from times t (B,) to r (B,)."""
        denoise = self._denoise(batch)
        x = x_t
        times = self.schedule.between(t, r, self.substeps + 1)
        times[0], times[-1] = t, r
        history: deque[Point] = deque(maxlen=MEMORY)
        for start, end in pairwise(times):
            x_r, x0_hat = self.solver.step(denoise, self.schedule, x, start, end, history=history)
            history.append(Point(start, x, x0_hat))
            x = x_r
        return x

    def velocity(self, x_t: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """dx/dt of the probability-flow ODE at (B, *) noisy images of `batch` and times t (B,).

        alpha' x0 + sigma' z with x0 and z from `split`; for EDM's frame (x_t - x0) / t.

        Source:
            Song et al. 2023, arXiv 2303.01469, Eq. 2; Lu & Song 2024, arXiv 2410.11081, Eq. 2.
        """
        scales = self.schedule(t)
        x0, z = self.split(x_t, t, batch)
        return expand(scales.d_alpha, x_t) * x0 + expand(scales.d_sigma, x_t) * z

    def split(self, x_t: Tensor, t: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """x0 and z in x_t = alpha x0 + sigma z, (B, *) each: x0 is the denoiser's answer, or the
        data."""
        scales = self.schedule(t)
        x0 = self._denoise(batch)(x_t, t)
        return x0, (x_t - expand(scales.alpha, x_t) * x0) / expand(scales.sigma, x_t)

    def _denoise(self, batch: Batch) -> Denoise:
        if self.denoiser is not None:
            return self.denoiser.bind(
                batch.label,
                schedule=self.schedule,
                guidance=self.guidance if batch.guidance is None else batch.guidance,
                augment=batch.augment,
            )
        return lambda x_t, t: batch.x
