"""Programs without this tool: the page's script beside `cmtool sample`, and every network."""

import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmtool import checkpoint, registry
from cmtool.data.places import cache_dir
from cmtool.errors import CheckpointError, DeviceError, RecipeError, silent
from cmtool.formats import _graph
from cmtool.formats.base import Source
from cmtool.losses.cd import CD
from cmtool.meta import Meta
from cmtool.preconditioner import ddpm_levels
from cmtool.recipe import Recipe
from cmtool.schedules.karras import Karras
from cmtool.schedules.trigflow import TrigFlow
from cmtool.settings import DenoiserSettings
from cmtool.solvers.heun import Heun
from cmtool.workflows._draw import draw, plan_for
from cmtool.workflows._engine import Compiled, check_engine, on_engine
from cmtool.workflows.export import Request, export
from cmtool.workflows.load import Model, open_model
from cmtool.workflows.sample import Request as Wish
from cmtool.workflows.sample import sample_to_files

PAGE = Path(__file__).parents[2] / "docs" / "export-programs.md"
SMALL: dict[str, dict[str, Any]] = {
    "tiny": {"width": 16, "blocks": 1, "attention": True, "head_channels": 8},
    "ddpmpp": {"channels": 16, "channel_mult": (1, 2), "blocks": 1, "attention": (4,)},
    "ncsnpp": {"channels": 16, "channel_mult": (1, 2), "blocks": 1, "attention": (4,)},
    "adm": {"channels": 32, "channel_mult": (1, 2), "blocks": 1, "attention": (4,)}
    | {"head_channels": 16},
    "edm2": {"channels": 16, "channel_mult": (1, 2), "blocks": 1, "attention": (4,)}
    | {"head_channels": 16},
}
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


def model_file(path: Path, network: str = "tiny", classes: int = 10, **parts: Any) -> Path:
    """A consistency model of 8x8 grey images with weights that are nowhere zero."""
    torch.manual_seed(1)
    spec = registry.load("networks", network)(**SMALL.get(network, {}), **parts.get("fields", {}))
    schedule = parts.get("schedule", Karras())
    settings = DenoiserSettings(
        precond=parts.get("precond", "consistency"), scalings=parts.get("scalings", "edm")
    )
    recipe = Recipe(network=spec, schedule=schedule, denoiser=settings, solver=Heun(), loss=CD())
    module = spec.build(8, 1, classes)
    state = {
        key: value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value
        for key, value in module.state_dict().items()
    }
    kind = "diffusion" if settings.precond == "edm" else "consistency"
    meta = Meta(kind, (1, 8, 8), tuple(map(str, range(classes))))
    checkpoint.write_file(path, meta, recipe, state)
    return path


def script() -> str:
    """The page's script."""
    found = re.search(r"```python\n(import numpy.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    return found[1]


def test_the_pages_script_draws_what_sample_draws(tmp_path: Path):
    assert len([line for line in script().splitlines() if line.strip()]) <= 18
    model = model_file(tmp_path / "digits.safetensors")
    export(Request("onnx", model, steps=2, out=tmp_path / "sampler.onnx"))
    wish = Wish(n=9, steps=2, seed=7, out=tmp_path / "ours")
    sample_to_files(model, wish, device="cpu")
    code = f"{script()}\nimport sys\nassert not {{'torch', 'cmtool'}} & set(sys.modules)"
    alone = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=alone)
    for i in range(9):
        name = f"{i:05}.png"
        ours, theirs = (read(tmp_path / folder / name) for folder in ("ours", "theirs"))
        assert ours.std() > 5  # There is something to see.
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def read(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image)


def errors(format: str, model: Path, **wish: Any) -> str:
    """Exports, which fails if the comparison does; the table."""
    return export(Request(format, model, out=model.with_name("out") / OUT[format], **wish)).table


OUT = {"onnx": "m.onnx", "pt2": "m.pt2", "aoti": "m.pt2"}


def test_a_program_of_torch_alone(tmp_path: Path):
    table = errors("pt2", model_file(tmp_path / "m.safetensors"))
    assert "not contiguous" in table
    assert "BAD" not in table


@pytest.mark.parametrize("steps", [None, 2])
def test_programs_name_no_folder_of_this_machine(steps: int | None, tmp_path: Path):
    source = Source(open_model(model_file(tmp_path / "m.safetensors")))
    times = () if steps is None else plan_for(source.denoiser, steps, None).times.tolist()
    made = _graph.program(replace(source, times=tuple(times)))
    parts = [p for p in made.graph_module.modules() if isinstance(p, torch.fx.GraphModule)]
    assert not any("stack_trace" in node.meta for part in parts for node in part.graph.nodes)
    torch.export.save(made, tmp_path / "m.pt2")
    with zipfile.ZipFile(tmp_path / "m.pt2") as file:
        held = b"".join(file.read(name) for name in file.namelist())
    assert str(PAGE.parents[1]).encode() not in held


def test_a_program_of_numbered_steps(tmp_path: Path):
    file = model_file(tmp_path / "m.safetensors", classes=0, precond="edm", scalings="ddpm")
    ddpm_levels.cache_clear()  # Levels that were first computed while exporting are no numbers.
    assert "BAD" not in errors("pt2", file)


@pytest.mark.slow
@pytest.mark.parametrize("network", registry.names("networks"))
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_every_network(network: str, format: str, tmp_path: Path):
    assert "BAD" not in errors(format, model_file(tmp_path / "m.safetensors", network))
    model = model_file(tmp_path / "p.safetensors", network, classes=0)
    told = errors(format, model, times="80,0.8,0.1", overwrite=True)
    assert "BAD" not in told


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_options_of_networks_and_other_schedules(format: str, tmp_path: Path):
    told = {"guidance_input": True, "normalize_affine": True}
    file = tmp_path / "m.safetensors"
    model_file(file, "ddpmpp", fields={**told, "augment_dim": 9}, schedule=TrigFlow())
    assert "BAD" not in errors(format, file, steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("network", registry.names("networks"))
def test_machine_code(network: str, tmp_path: Path):
    table = errors("aoti", model_file(tmp_path / "m.safetensors", network))
    assert "not contiguous" in table
    assert "BAD" not in table


def opened(path: Path, **parts: Any) -> Model:
    return open_model(model_file(path, **parts))


def test_what_no_program_can_hold(tmp_path: Path):
    consistency = opened(tmp_path / "m.safetensors")
    consistency.denoiser.kind = "diffusion"
    sampler = Source(consistency, times=(80.0, 0.8))
    for name in OUT:
        with pytest.raises(CheckpointError, match="a sampler of a diffusion model cannot be"):
            registry.load("formats", name)().check(sampler)
    with torch.device("meta"):
        consistency.denoiser.network = torch.nn.Linear(30_000, 30_000)
    with pytest.raises(CheckpointError, match=r"a network of 3\.6 GB cannot .* 'onnx'"):
        registry.load("formats", "onnx")().check(Source(consistency))


def test_machine_code_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(DeviceError, match="needs a C\\+\\+ compiler") as caught:
        registry.load("formats", "aoti")().check(Source(opened(tmp_path / "m.safetensors")))
    assert "g++" in str(caught.value.hint)


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("classes", [0, 10])
def test_a_compiled_model_is_drawn_like_the_model(classes: int, guidance: float, tmp_path: Path):
    model = opened(tmp_path / "m.safetensors", classes=classes).denoiser
    asked = []

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        asked.append([part.dtype for part in inputs])
        return model(*inputs)

    compiled = Compiled(model, run, "onnx").eval()
    plan = plan_for(model, 2)
    plan = replace(plan, guidance=guidance if classes else 1.0)
    ours, theirs = (draw(each, plan, range(3), 5)[0] for each in (model, compiled))
    assert torch.equal(ours, theirs)
    kinds = [torch.float32, torch.float32, *([torch.int64] if classes else [])]
    assert asked == [kinds] * len(asked)
    assert len(asked) == (4 if classes and guidance != 1 else 2)


def test_a_program_is_not_told_of_guidance(tmp_path: Path):
    model = opened(tmp_path / "m.safetensors").denoiser
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(RecipeError, match="--engine aoti cannot tell the network a weight"):
        Compiled(model, model, "aoti")(x, 1.0, guidance=torch.ones(1))


def test_engines_that_are_not_there(tmp_path: Path):
    with pytest.raises(RecipeError, match="unknown engine 'onx'") as caught:
        check_engine("onx")
    assert "did you mean 'onnx'" in caught.value.message
    there = opened(tmp_path / "m.safetensors")
    with pytest.raises(DeviceError, match="--engine onnx runs on the CPU, not on 'meta'"):
        on_engine(there, "onnx", torch.device("meta"), silent)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "aoti"])
def test_engines_draw_the_same_pictures(engine: str, tmp_path: Path):
    model = model_file(tmp_path / "m.safetensors")
    said: list[str] = []
    for name, wish in {
        "ours": Wish(n=5, steps=2),
        "theirs": Wish(n=5, steps=2, engine=engine),
        "again": Wish(n=5, steps=2, engine=engine, batch_size=2),
    }.items():
        sample_to_files(model, replace(wish, out=tmp_path / name), device="cpu", say=said.append)
    for i in range(5):
        ours, *others = (
            read(tmp_path / name / f"{i:05}.png").astype(int)
            for name in ("ours", "theirs", "again")
        )
        assert all(np.abs(ours - other).max() <= 1 for other in others)
    assert len([line for line in said if line.startswith("building")]) == 1
    folder = cache_dir() / "engines"
    before = set(folder.iterdir())
    sample_to_files(
        model_file(tmp_path / "other.safetensors", classes=3),
        Wish(n=1, engine=engine, out=tmp_path / "other"),
        device="cpu",
    )
    assert len(set(folder.iterdir()) - before) == 1  # Other weights, another program.
