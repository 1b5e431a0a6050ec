"""The table of errors in docs/solvers.md, and what the papers promise: order pays."""

from pathlib import Path

import pytest

from benchmarks import solvers
from cmtool import registry

PAGE = Path(__file__).parents[2] / "docs" / "solvers.md"
COLUMNS = (10, 20, 50)
HIGHER = [name for name, solver in solvers.ODE_SOLVERS.items() if solver.order > 1]
MULTISTEP = [name for name in HIGHER if solvers.ODE_SOLVERS[name].nfe == 1]


@pytest.fixture(scope="module", params=["karras", "log-sigma"])
def schedule(request):
    return request.param


@pytest.fixture(scope="module")
def measured(schedule):
    rows = solvers.errors(registry.load("schedules", schedule)(), COLUMNS, truth_steps=300)
    return {name: dict(zip(COLUMNS, row, strict=True)) for name, row in rows.items()}


def test_higher_order_beats_euler(measured, schedule):
    euler = measured["euler"]
    assert all(measured[name][50] < euler[50] / 2 for name in HIGHER)
    assert all(measured[name][20] < euler[20] / 1.5 for name in MULTISTEP)
    if schedule == "log-sigma":  # The spacing of the papers of DPM-Solver and DPM-Solver++.
        assert all(measured[name][10] < euler[10] / 2 for name in MULTISTEP)


def test_third_order_beats_second(measured):
    at = {name: row[50] for name, row in measured.items()}
    assert at["dpm-solver-fast"] < at["midpoint"] < at["heun"]
    assert at["dpmpp-3m"] < at["dpmpp-2m"]
    assert at["deis, order 3"] < at["deis, order 2"]
    assert at["unipc, p = 3"] < at["unipc, p = 2"] < at["dpmpp-2m"]


def test_the_page_has_the_measured_numbers(measured, schedule):
    part = PAGE.read_text().split(f"### Error of a path's end, {schedule}")[1].split("\n\n")[1]
    head, _, *lines = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in part.split("\n")
    )
    rows = {row[0]: dict(zip(head[1:], map(float, row[1:]), strict=True)) for row in lines}
    assert rows.keys() == measured.keys()
    for name, row in measured.items():
        for nfe, error in row.items():
            assert rows[name][str(nfe)] == pytest.approx(error, rel=0.06), (name, nfe)


def test_every_solver_is_in_a_table():
    text = PAGE.read_text()
    assert all(f"| `{name}`" in text for name in registry.names("solvers"))
