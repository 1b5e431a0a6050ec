"""What `cmtool export diffusers` writes, run by the real diffusers: the same samples."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import DDPM, OPENAI, ddpm_range, probe, write
from torch import Tensor

import cmtool
from cmtool.sampling import sample_consistency, sample_ode
from cmtool.schedules.karras import Karras
from cmtool.settings import DenoiserSettings
from cmtool.solvers.euler import Euler
from cmtool.workflows._draw import plan_for
from cmtool.workflows.export import Request, export

library = pytest.importorskip("diffusers")
GRID = Karras().grid(40).tolist()


def exported(tmp_path: Path, **fields: Any) -> tuple[Path, Path]:
    """The model and the folder."""
    model = write(tmp_path / "model.safetensors", **fields)
    return model, export(Request("diffusers", model, out=tmp_path / "folder")).paths[-1]


class Fixed:
    """Noise that was drawn before, in place of `SeedRng`."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = list(draws)

    def randn(self, shape: Sequence[int]) -> Tensor:
        return self.draws.pop(0)


@pytest.mark.parametrize("classes", [5, 0])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_pipeline_gives_our_samples(steps: int, classes: int, tmp_path: Path) -> None:
    times = {2: (GRID[0], GRID[22]), 3: (GRID[0], round(GRID[10], 4), GRID[30])}
    path, folder = exported(tmp_path, times=times, classes=classes)
    card = (folder / "README.md").read_text()
    assert "timesteps=[22, 0]" in card
    assert "timesteps=[30, 10, 0]" in card
    model = cmtool.load(path, device="cpu")
    label = torch.tensor([3, 1]) if classes else None
    pipeline = library.ConsistencyModelPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    numbers = {1: [0], 2: [22, 0], 3: [30, 10, 0]}[steps]
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = pipeline(
        batch_size=2,
        class_labels=label,
        num_inference_steps=None,
        timesteps=numbers,
        latents=z,
        generator=torch.Generator().manual_seed(5),
        output_type="pt",
    ).images
    again = torch.Generator().manual_seed(5)
    draws = [torch.randn(z.shape, generator=again) for _ in range(steps - 1)]
    levels = plan_for(model, steps).times
    ours = sample_consistency(
        model.bind(label, clamp=True),
        model.schedule,
        z.double() * levels[0],
        levels,
        rng=Fixed(draws),  # type: ignore[arg-type]
    )
    assert float(((ours.float() / 2 + 0.5).clamp(0, 1) - theirs).abs().max()) < 1e-4
    assert float(theirs.std()) > 0.05


FORMS: list[dict[str, Any]] = [
    {},
    {"scale_shift": False, "resblock_updown": False, "channel_mult": (1, 1, 2), "attention": (2,)},
    {"head_channels": 0, "norm_groups": 8, "middle_attention": False, "dropout": 0.1},
    {"flavor": "ddpm", "resblock_updown": False, "shape": (1, 8, 8), "attention": (8, 4)},
    {"flavor": "ddpm", "classes": 0},
    {
        "schedule": Karras(0.01, 20.0, 5.0),
        "denoiser": DenoiserSettings(
            "consistency", noise_scale=250.0, boundary=0.01, sigma_data=0.4
        ),
    },
    {"kind": "diffusion", "denoiser": DDPM, "schedule": ddpm_range(), "flavor": "ddpm"},
]


@pytest.mark.parametrize("fields", FORMS)
def test_it_comes_back_unchanged(fields: dict[str, Any], tmp_path: Path) -> None:
    path, folder = exported(tmp_path, **fields)
    before, after = cmtool.load(path, device="cpu"), cmtool.load(folder, device="cpu")
    state = before.network.state_dict()
    assert all(torch.equal(state[key], t) for key, t in after.network.state_dict().items())
    assert (after.kind, after.precond, after.schedule) == (
        *(before.kind, before.precond, before.schedule),
    )
    x, sigma, label = probe(fields.get("shape", (3, 8, 8)))
    label = label if before.num_classes else None
    assert torch.equal(after(x, sigma, label), before(x, sigma, label))
    assert after.num_classes == before.num_classes
    report = json.loads((folder / "check.json").read_text())
    assert {row["compared"] for row in report["comparisons"]} == {"diffusers", "cmtool.load"}


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_ddim_gives_our_samples(prediction: str, tmp_path: Path) -> None:
    settings = DenoiserSettings(scalings="ddpm", prediction=prediction)  # type: ignore[arg-type]
    fields = {"kind": "diffusion", "denoiser": settings, "schedule": ddpm_range(), "classes": 0}
    path, folder = exported(tmp_path, **fields)
    model = cmtool.load(path, device="cpu")
    pipeline = library.DDIMPipeline.from_pretrained(folder)
    scheduler, unet = pipeline.scheduler, pipeline.unet
    scheduler.set_timesteps(4)
    sample = start = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    steps = scheduler.timesteps.tolist()
    with torch.no_grad():
        for t in steps:
            sample = scheduler.step(unet(sample, t).sample, t, sample).prev_sample
    levels = model.precond.levels[steps]  # type: ignore[attr-defined]
    x = start.double() * (1 + levels[0] ** 2).sqrt()
    ours = sample_ode(model.bind(), model.schedule, [Euler()] * 3, x, levels).float()
    assert float((ours - sample).abs().max()) < 1e-4 * max(1, float(sample.abs().max()))


@pytest.mark.parametrize("levels", [(80.0, 0.8), (GRID[5], GRID[22])])
def test_levels_off_the_grid_are_one_step_and_the_card_says_so(
    levels: tuple[float, float], tmp_path: Path
) -> None:
    _, folder = exported(tmp_path, times={2: levels})
    card = (folder / "README.md").read_text()
    assert (
        "do not lie on the scheduler's grid of 40 levels: in diffusers the model takes one step"
        in card
    )
    assert "timesteps=" not in card


def test_the_grid_is_the_one_that_the_folder_came_with(tmp_path: Path) -> None:
    _, folder = exported(tmp_path, denoiser=OPENAI)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("40", "151"))
    again = export(Request("diffusers", folder, out=tmp_path / "again")).paths[-1]
    assert json.loads((again / "scheduler" / "scheduler_config.json").read_text()) == json.loads(
        config.read_text()
    )
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert (again / unet).read_bytes() == (folder / unet).read_bytes()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.01), ("bfloat16", 0.05)])
def test_half_precision(dtype: str, tolerance: float, tmp_path: Path) -> None:
    model = write(tmp_path / "model.safetensors")
    folder = export(Request("diffusers", model, out=tmp_path / "f", dtype=dtype)).paths[-1]
    before, after = cmtool.load(model, device="cpu"), cmtool.load(folder, device="cpu")
    ours, theirs = before(*probe()), after(*probe())
    assert 0 < float((ours - theirs).abs().max()) < tolerance * max(1, float(ours.abs().max()))
