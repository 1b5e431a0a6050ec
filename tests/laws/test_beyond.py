"""What a single distance does not see: exact answers give 0, known faults give known numbers."""

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import Exact, Gaussian

from cmtool.denoiser import EDM, Denoiser
from cmtool.meta import Meta
from cmtool.metrics import lpips as lpips_alex
from cmtool.metrics.diversity import PairMean
from cmtool.metrics.neighbours import nearer, nearest
from cmtool.metrics.self_consistency import self_consistency
from cmtool.metrics.speed import timings
from cmtool.recipe import Recipe
from cmtool.schedules.karras import Karras
from cmtool.schedules.trigflow import TrigFlow
from cmtool.solvers.heun import Heun
from cmtool.teacher import Teacher
from cmtool.tensors import Batch, expand
from cmtool.workflows import eval_consistency as workflow
from cmtool.workflows._draw import plan_for
from cmtool.workflows._subjects import Opened, Request
from cmtool.workflows.load import Model

SHAPE = (1, 4, 4)


def start(schedule, count: int = 5) -> torch.Tensor:
    noise = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    return schedule.t_max * noise if isinstance(schedule, Karras) else 0.5 * noise


# Self-consistency.


@pytest.mark.parametrize("schedule", [Karras(), TrigFlow()], ids=["karras", "trigflow"])
def test_an_exact_consistency_function_has_no_error(schedule):
    data, x = Gaussian(schedule), start(schedule)
    edges = schedule.grid(9)
    errors, end = self_consistency(data.consistency, data.flow, edges, x)
    assert errors.shape == (8, 5)
    assert errors.max() < 1e-9
    assert torch.allclose(end, data.consistency(x, edges[0].expand(5)))


def test_a_solver_leaves_its_own_error():
    schedule, found = Karras(), []
    data, x = Gaussian(schedule), start(schedule)
    teacher = Denoiser(Exact(data.denoise, EDM()), EDM(), schedule, "diffusion", SHAPE).double()
    for steps in (4, 8):
        ode = Teacher(schedule, Heun(), teacher, substeps=steps)

        def step(x, t, r, ode=ode):
            return ode.step(x, t, r, Batch(x))

        errors, _ = self_consistency(data.consistency, step, schedule.grid(9), x)
        found.append(float(errors.mean()))
    assert found[0] < 0.01
    assert found[0] / found[1] == pytest.approx(4, rel=0.3)  # Heun's method is of second order.


@pytest.mark.parametrize("anew", [False, True])
def test_a_drift_has_its_size_in_every_bin(anew: bool):
    schedule, drift = Karras(), 0.03
    data, x = Gaussian(schedule), start(schedule)

    def f(x, t):
        return data.consistency(x, t) + drift * expand(t.log(), x)

    def noisy(t):
        return expand(t, x) * x / schedule.t_max

    edges = schedule.grid(7)
    errors, _ = self_consistency(f, data.flow, edges, x, noisy if anew else None)
    expected = drift * (edges[:-1] / edges[1:]).log()
    assert torch.allclose(errors, expected[:, None].expand(-1, 5), atol=1e-9)


def opened(function, kind: str) -> Opened:
    data = Gaussian(Karras(), 0.2, 0.01)
    network = Exact(function(data), EDM())
    model = Denoiser(network, EDM(), Karras(), kind, SHAPE).double()
    recipe, meta = Recipe.__new__(Recipe), Meta(kind, SHAPE, ())
    object.__setattr__(recipe, "teacher", type("T", (), {"guidance": 1.0}))
    held = Model(model, recipe, meta, kind)
    return Opened(Path(kind), held, (plan_for(model, 1),) if kind == "consistency" else ())


@pytest.mark.parametrize(("fault", "least"), [(0.0, 0.0), (0.1, 0.1)])
def test_the_report_tells_a_fault(
    fault: float, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def wrong(data):
        # Right at the smallest level alone, as a network's boundary condition makes it.
        return lambda x, t: data.consistency(x, t) + fault * (expand(t, x) > 0.0021)

    student, teacher = (
        opened(wrong, "consistency"),
        opened(lambda data: data.denoise, "diffusion"),
    )
    out = tmp_path / "o.json"
    monkeypatch.setattr(workflow, "open_one", lambda *_: (student, out))
    monkeypatch.setattr(workflow, "open_teacher", lambda *_: teacher.model)
    monkeypatch.setattr(workflow, "missing_lpips", lambda: "none here")
    wanted = workflow.Wanted(bins=4, teacher_steps=160)
    report = workflow.consistency(Request(metrics=("consistency",), n=6, batch_size=4), wanted)
    bins = [part["figures"]["self-consistency"]["value"] for part in report.content["bins"]]
    solver = report.content["solver_error"]["value"]
    assert solver < 1e-3
    assert max(bins[:-1]) < 1e-3
    assert bins[-1] == pytest.approx(least, abs=1e-3)
    figures = report.content["rows"][0]["figures"]
    assert figures["rms to teacher"]["value"] == pytest.approx(least, abs=1e-3)
    # Two images of N(0.2, 0.1^2) differ by 0.1 sqrt(2).
    pairs = report.content["teacher_to_teacher"]["value"]
    assert pairs == pytest.approx(0.1 * math.sqrt(2), rel=0.25)
    assert "note: none here" in report.table
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.json", "o.png"]


# Diversity.


def test_the_mean_over_pairs_is_that_of_all_pairs():
    vectors = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)) + 100
    mean, rest = PairMean(), PairMean()
    mean.add(vectors[:4])
    rest.add(vectors[4:7])
    rest.add(vectors[7:])
    mean.join(PairMean())
    mean.join(rest)
    pairs = [
        float((a - b).double().square().sum())
        for a, b in itertools.combinations(vectors.double(), 2)
    ]
    assert (mean.n, mean.pairs) == (9, len(pairs))
    assert mean.value() == pytest.approx(np.mean(pairs), rel=1e-9)
    with pytest.raises(ValueError, match="two vectors"):
        PairMean().value()


def trunk_file(folder: Path, real: bool) -> None:
    """AlexNet's convolutions, random or those that LPIPS was made with."""
    if real:
        from safetensors.torch import load_file

        if "CMTOOL_SHARED" not in os.environ:
            pytest.skip("CMTOOL_SHARED names no folder with weights/lpips_alex_fp32.safetensors")
        state = load_file(Path(os.environ["CMTOOL_SHARED"], "weights/lpips_alex_fp32.safetensors"))
    else:
        torch.manual_seed(0)
        sizes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3),
                 10: (256, 256, 3)}  # fmt: skip
        state = {}
        for key, (out, into, side) in sizes.items():
            state[f"features.{key}.weight"] = torch.randn(out, into, side, side) / 20
            state[f"features.{key}.bias"] = torch.randn(out) / 20
    folder.joinpath("checkpoints").mkdir()
    torch.save(state, folder / "checkpoints" / lpips_alex.TRUNK)


@pytest.mark.parametrize(("real", "channels"), [(False, 1), (True, 3)], ids=["random", "real"])
def test_lpips_is_that_of_its_package(
    real: bool, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lpips = pytest.importorskip("lpips", reason="lpips is not installed")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path))
    assert lpips_alex.TRUNK in lpips_alex.missing_lpips()
    assert str(tmp_path / "checkpoints") in lpips_alex.missing_lpips()
    trunk_file(tmp_path, real)
    assert lpips_alex.missing_lpips() is None
    ours = lpips_alex.open_lpips(torch.device("cpu"))
    network = lpips.LPIPS(net="alex", verbose=False, pnet_rand=True).eval()
    network.load_state_dict(ours.network.state_dict())
    a, b = torch.rand(2, 3, channels, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    large = [
        torch.nn.functional.interpolate(x.expand(-1, 3, -1, -1), size=224, mode="bilinear")
        for x in (a, b)
    ]
    with torch.no_grad():
        theirs = network(*large).flatten()
    assert torch.allclose(ours.distance(a, b), theirs, rtol=1e-4, atol=1e-7)
    assert theirs.min() > 1e-3


def test_another_trunk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("lpips", reason="lpips is not installed")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / lpips_alex.TRUNK).write_bytes(b"no weights")
    with pytest.raises(lpips_alex.DataError, match="does not hold AlexNet's weights"):
        lpips_alex.open_lpips(torch.device("cpu"))


# Neighbours.


@pytest.mark.parametrize("tile", [2048, 7])
def test_neighbours_are_those_of_all_distances(tile: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cmtool.metrics.neighbours.TILE", tile)
    rng = np.random.default_rng(0)
    queries, among = rng.normal(size=(11, 6)) + 1e3, rng.normal(size=(30, 6)) + 1e3
    every = np.sqrt(((queries[:, None] - among) ** 2).sum(2))
    found = nearest(queries, among, 4)
    assert (found.indices == every.argsort(1)[:, :4]).all()
    assert np.allclose(found.distances, np.sort(every, 1)[:, :4], rtol=1e-9)
    every = np.sqrt(((among[:, None] - among) ** 2).sum(2)) + np.diag([np.inf] * 30)
    for count in (30, 12):
        own = nearest(among[:count], among, 2, same=True)
        assert (own.indices == every[:count].argsort(1)[:, :2]).all()
    with pytest.raises(ValueError, match="k = 30"):
        nearest(among, among, 30, same=True)


def test_a_copy_has_distance_zero():
    among = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32) + 1e4
    found = nearest(among[[3, 499]], among, 3)
    assert found.indices[:, 0].tolist() == [3, 499]
    assert (found.distances[:, 0] == 0).all()


def test_the_share_that_is_nearer():
    held = np.arange(101.0)
    assert nearer(np.arange(101.0), held, 0.05) == (0.05, 5.0, 5 / 101)
    assert nearer(np.zeros(10), held, 0.01).share == 1
    assert nearer(np.full(10, 50.0), held, 0.05).share == 0


# Speed.


def test_timings_are_medians_after_the_warm_up_in_turn():
    now, order = [0.0], []
    lengths = {"a": iter([99, 1, 2, 3]), "b": iter([99, 10, 50, 20])}

    def call(name):
        order.append(name)
        now[0] += next(lengths[name])

    a, b = timings([lambda: call("a"), lambda: call("b")], repeats=3, clock=lambda: now[0])
    assert "".join(order) == "abababab"
    assert a == (2.0, 1.5, 2.5)
    assert b == (20.0, 15.0, 35.0)
