"""The samplers against the released implementations, on a Gaussian's exact denoiser."""

import pytest
import torch

from cmtool.sampling import sample_consistency, sample_ode
from cmtool.schedules.karras import Karras
from cmtool.solvers.ancestral import Ancestral
from cmtool.solvers.churn import Churn
from cmtool.solvers.euler import Euler
from cmtool.solvers.heun import Heun
from cmtool.solvers.midpoint import Midpoint
from tests import golden_cases as golden
from tests.oracles import Gaussian

SAMPLERS = golden.cases()["samplers"]
STORED = golden.tensors("samplers")
ORACLE = Gaussian(Karras(), SAMPLERS["mean"], SAMPLERS["variance"])


def _churn(levels, s_churn=0.0, s_min=0.0, s_max=float("inf"), s_noise=1.0):
    return Churn(s_churn, s_min, s_max, s_noise, steps=levels)


ODE = {
    "heun": lambda case, levels: Heun(),
    "heun_churn": lambda case, levels: _churn(
        levels, case["s_churn"], case["s_tmin"], case["s_tmax"], case["s_noise"]
    ),
    "euler": lambda case, levels: Euler(),
    "dpm": lambda case, levels: Midpoint("cubic"),
    "ancestral": lambda case, levels: Ancestral(),
    "progdist": lambda case, levels: Euler(),
    "edm": lambda case, levels: Heun(),
    "edm_churn": lambda case, levels: _churn(
        levels, case["S_churn"], case["S_min"], case["S_max"], case["S_noise"]
    ),
}
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
    case = SAMPLERS[name]
    if "num_steps" in case:
        levels, start = case["num_steps"], STORED[f"{name}.latents"].double() * 80
    else:
        # The list of levels ends with a zero, which the closing call of the denoiser stands for.
        levels, start = len(STORED["sigmas"]) - 1, STORED[f"{name}.x_T"].double()
    times = Karras().grid(levels)
    if name == "dpm":  # It takes a midpoint step to the zero.
        times = torch.cat([times, torch.zeros(1)])
    solver = ODE[name](case, levels)
    rng = Recorded(STORED[f"{name}.noise"]) if f"{name}.noise" in STORED else None
    out = sample_ode(
        *(ORACLE.denoise, Karras(), [solver] * (len(times) - 1), start, times),
        # The released progdist stops at the smallest level.
        finish=name not in ("progdist", "dpm"),
        rng=rng,
    )
    _close(out, STORED[f"{name}.out"])


def test_no_golden_sampler_is_left_out():
    cases = {name for name, case in SAMPLERS.items() if f"{name}.out" in STORED}
    assert cases == {*(name for name in ODE if name in SAMPLERS), *MULTISTEP}


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
    assert ODE.keys() <= SAMPLERS.keys()
    assert len(MULTISTEP) >= 2
    assert STORED["heun.out"].dtype == torch.float32
