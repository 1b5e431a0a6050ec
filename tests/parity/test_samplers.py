"""The samplers against the released implementations, on a Gaussian's exact denoiser."""

import pytest
import torch

from cmtool.sampling import sample_consistency, sample_ode
from cmtool.schedules.karras import Karras
from cmtool.solvers.euler import Euler
from cmtool.solvers.heun import Heun
from tests import golden_cases as golden
from tests.oracles import Gaussian

SAMPLERS = golden.cases()["samplers"]
STORED = golden.tensors("samplers")
ORACLE = Gaussian(Karras(), SAMPLERS["mean"], SAMPLERS["variance"])
ODE = {"heun": Heun(), "euler": Euler(), "edm": Heun()}
MULTISTEP = [name for name in SAMPLERS if name.startswith("multistep")]


class Recorded:
    """Hands out the reference's own noise."""

    def __init__(self, draws):
        self.draws = iter(draws)

    def randn(self, shape):
        return next(self.draws)


def _close(ours, theirs):
    assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5


@pytest.mark.parametrize("name", [name for name in ODE if name in SAMPLERS])
def test_ode_samplers(name):
    if "num_steps" in SAMPLERS[name]:
        levels, start = SAMPLERS[name]["num_steps"], STORED[f"{name}.latents"].double() * 80
    else:
        # The list of levels ends with a zero, which the closing call of the denoiser stands for.
        levels, start = len(STORED["sigmas"]) - 1, STORED[f"{name}.x_T"].double()
    times = Karras().grid(levels)
    out = sample_ode(ORACLE.denoise, Karras(), [ODE[name]] * (levels - 1), start, times)
    _close(out, STORED[f"{name}.out"])


@pytest.mark.parametrize("name", MULTISTEP)
def test_consistency_sampling(name):
    indices, steps = SAMPLERS[name]["ts"], SAMPLERS[name]["steps"]
    times = Karras().grid(steps)[indices[:-1]]
    start, rng = STORED[f"{name}.x_T"].double(), Recorded(STORED[f"{name}.noise"])
    _close(
        sample_consistency(ORACLE.consistency, Karras(), start, times, rng=rng),
        STORED[f"{name}.out"],
    )


def test_there_are_cases():
    assert {"heun", "euler", "edm"} <= SAMPLERS.keys()
    assert len(MULTISTEP) >= 2
    assert STORED["heun.out"].dtype == torch.float32
