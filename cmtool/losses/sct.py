"""sCT: TrigFlow's continuous-time consistency training."""

from dataclasses import dataclass
from typing import ClassVar

from cmtool.losses._scm import SCM


@dataclass(frozen=True)
class SCT(SCM):
    """sCM with dx/dt = cos(t) sigma_data z - sin(t) x from the data, right on average.

    Source:
        Lu & Song 2024, arXiv 2410.11081, Algorithm 1 (training).
    """

    needs_teacher_model: ClassVar[bool] = False
