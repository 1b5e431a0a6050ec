"""DPM-Solver++(3M): three answers, one evaluation a step."""

from dataclasses import dataclass
from typing import ClassVar

from cmtool.solvers._multistep import Answers


@dataclass(frozen=True)
class DPMpp3M(Answers):
    """y_r = e^-h y + integral of e^(s - h) p(s) over a step, p the parabola in log-SNR through this
    answer and the last two. A path's first step is Euler's, its second one DPM-Solver++(2M)'s.

    Source:
        Lu et al. 2022, arXiv 2211.01095, their multistep method for three answers. The authors'
        code halves the curvature's weight, which leaves an order of 2; here it is whole.
    """

    order: ClassVar[int] = 3
