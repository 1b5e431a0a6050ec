"""DPM-Solver++(2M): two answers, one evaluation a step."""

from dataclasses import dataclass
from typing import ClassVar

from cmtool.solvers._multistep import Answers


@dataclass(frozen=True)
class DPMpp2M(Answers):
    """y_r = e^-h y + (1 - e^-h) x0_mid with h = ln(lambda_t / lambda_r) and x0_mid the line through
    this answer and the last one, in log-SNR, half a step ahead. A path's first step is Euler's.

    Source:
        Lu et al. 2022, arXiv 2211.01095, Algorithm 2.
    """

    order: ClassVar[int] = 2
