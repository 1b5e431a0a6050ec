"""sCD: TrigFlow's continuous-time consistency distillation."""

from dataclasses import dataclass
from typing import ClassVar

from cmtool.losses._scm import SCM


@dataclass(frozen=True)
class SCD(SCM):
    """sCM with dx/dt from a diffusion model, EDM's or TrigFlow's.

    Source:
        Lu & Song 2024, arXiv 2410.11081, Algorithm 1 (distillation).
    """

    needs_teacher_model: ClassVar[bool] = True
