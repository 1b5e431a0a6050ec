"""Consistency distillation in continuous time."""

from dataclasses import dataclass
from typing import ClassVar

from cmtool.losses._continuous import ContinuousLoss


@dataclass(frozen=True)
class CDContinuous(ContinuousLoss):
    """How fast f changes along the teacher's trajectory: `cd` with infinitely many levels.

    Source:
        Song et al. 2023, arXiv 2303.01469, Theorems 3 to 5. Without stop-gradient l1, l2 and LPIPS,
        with it l2 and LPIPS.
    """

    needs_teacher_model: ClassVar[bool] = True
