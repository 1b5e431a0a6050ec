"""Consistency training in continuous time."""

from dataclasses import dataclass
from typing import ClassVar

from cmtool.losses._continuous import ContinuousLoss


@dataclass(frozen=True)
class CTContinuous(ContinuousLoss):
    """How fast f changes along x + t z: `ct` with infinitely many levels.

    The derivative along x + t z is right on average only. Its square would add its variance to the
    loss, so it stands behind a stop-gradient.

    Source:
        Song et al. 2023, arXiv 2303.01469, Theorem 6.
    """

    needs_teacher_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stop_gradient:
            raise ValueError(
                "needs stop_gradient = true, got stop_gradient=false: without a teacher model the "
                "loss would be biased"
            )
