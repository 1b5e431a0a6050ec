"""Solvers as they are typed, with and without fields."""

import pytest
import torch
from torch import nn

from cmtool import registry
from cmtool.denoiser import EDM, Denoiser
from cmtool.errors import RecipeError
from cmtool.schedules.karras import Karras
from cmtool.solvers.churn import Churn
from cmtool.solvers.deis import DEIS
from cmtool.solvers.midpoint import Midpoint
from cmtool.solvers.unipc import UniPC
from cmtool.workflows._draw import plan_for
from cmtool.workflows._sharded import identity
from cmtool.workflows._solver import parse_solver, typed


def _model():
    network = nn.Conv2d(1, 1, 1)
    return Denoiser(network, EDM(), Karras(), "diffusion", (1, 2, 2))


@pytest.mark.parametrize(
    ("text", "solver"),
    [
        ("deis:order=2", DEIS(order=2)),
        ("unipc:predictor=1", UniPC(predictor=1)),
        ("midpoint:middle=cubic", Midpoint(middle="cubic")),
        ("churn:s_churn=80.0,s_noise=1.0", Churn(s_churn=80.0, s_noise=1.0)),
    ],
)
def test_fields_are_taken_told_and_part_of_the_request(text, solver):
    assert parse_solver(text) == solver
    assert typed(solver) == text
    plan, usual = (plan_for(_model(), 9, solver=name) for name in (text, text.partition(":")[0]))
    assert f"{text} steps" in str(plan)
    assert identity(_model(), plan, 0, 1)["solvers"] != identity(_model(), usual, 0, 1)["solvers"]


@pytest.mark.parametrize("name", registry.names("solvers"))
def test_a_solver_without_fields_is_typed_by_its_name(name):
    for solver in plan_for(_model(), 12, solver=name).solvers:
        assert typed(solver) in (name, "euler")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("ddim", "solver 'ddim' is called 'euler' here", "--solver euler"),
        ("dpm-solver-2", "solver 'dpm-solver-2' is called 'midpoint' here", "--solver midpoint"),
        ("huen", r"unknown solver 'huen' \(did you mean 'heun'\?\)", "--list solvers"),
        ("deis:orde=2", r"has no field 'orde' \(did you mean 'order'\?\)", "its fields: order"),
        ("deis:order=4", "order: expected one of 1, 2, 3, got 4", "--solver deis"),
        ("deis:order", "order: expected one of 1, 2, 3, got ''", "--solver deis"),
        ("heun:order=3", "'heun' has no field 'order'", "--solver heun"),
        ("churn:s_churn=-1", "needs s_churn >= 0", "--solver churn"),
        # What the number of evaluations decides is not for the user.
        ("churn:steps=5", "'churn' has no field 'steps'", "its fields: s_churn, s_min"),
        ("dpm-solver-fast:stages=2", "has no field 'stages'", "--solver dpm-solver-fast"),
    ],
)
def test_what_is_no_solver(text, message, hint):
    with pytest.raises(RecipeError, match=message) as caught:
        plan_for(_model(), 5, solver=text)
    assert hint in caught.value.hint


def test_fields_change_the_steps():
    """Order 1 of DEIS is Euler's method."""
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    t, r = torch.tensor([3.0, 3.0]).double(), torch.tensor([1.0, 1.0]).double()
    ends = [
        parse_solver(text).step(lambda x, t: x.tanh(), Karras(), x, t, r)[0]
        for text in ("euler", "deis:order=1")
    ]
    torch.testing.assert_close(*ends)
