"""The real diffusers: what it saves loads here, and gives the numbers and images it gives there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers_models import CIFAR10, IMAGENET64, LSUN256, SMALL, save, unet
from torch import Tensor

import cmtool
from cmtool.errors import silent
from cmtool.foreign import diffusers as reader
from cmtool.foreign._diffusers_config import network
from cmtool.foreign._json import Fields
from cmtool.foreign._keymap import skeleton
from cmtool.networks.adm import Adm
from cmtool.sampling import sample_consistency, sample_ode
from cmtool.schedules.karras import Karras
from cmtool.solvers.euler import Euler

library = pytest.importorskip("diffusers")
TOLERANCE = 1e-5


def close(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-5 of the larger of 1 and the largest number."""
    scale = max(1.0, float(theirs.abs().max()))
    assert float((ours - theirs).abs().max()) <= TOLERANCE * scale


def noise(size: int, channels: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(seed))


def labels(config: dict[str, Any]) -> Tensor | None:
    return torch.tensor([3, 1]) if "num_class_embeds" in config else None


def spec_of(config: dict[str, Any]) -> tuple[Adm, int, int, int]:
    return network(Fields(Path("config.json"), dict(config)), {})


@pytest.mark.parametrize("name", SMALL)
def test_networks_agree_and_names_go_there_and_back(name: str) -> None:
    theirs, config = unet(name), SMALL[name]
    spec, size, channels, classes = spec_of(config)
    state = theirs.state_dict()
    own = reader.to_ours(state, spec, size, channels, classes)
    back = reader.to_theirs(own, spec, size, channels, classes)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    ours = spec.build(size, channels, classes).eval()
    ours.load_state_dict(own)
    x, c_noise, label = noise(size, channels), torch.tensor([-3.0, 700.0]), labels(config)
    with torch.no_grad():
        close(ours(x, c_noise, label), theirs(x, c_noise, label).sample)


@pytest.mark.parametrize(
    ("config", "keys", "parameters"),
    [(IMAGENET64, 629, 295_899_267), (LSUN256, 630, 526_304_771), (CIFAR10, 328, 35_746_307)],
    ids=["imagenet64", "lsun256", "cifar10"],
)
def test_full_size_layouts(config: dict[str, Any], keys: int, parameters: int) -> None:
    with torch.device("meta"):
        theirs = library.UNet2DModel(**config).state_dict()
    spec, *facts = spec_of(config)
    ours = reader.to_theirs(skeleton(spec, *facts), spec, *facts)
    assert {name: t.shape for name, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    assert len(ours) == keys
    assert sum(t.numel() for t in ours.values()) == parameters


CONSISTENCY = [("imagenet64", {}), ("lsun256", {"num_train_timesteps": 151, "sigma_data": 0.4})]


@pytest.mark.parametrize(("name", "options"), CONSISTENCY)
def test_consistency_pipelines(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    scheduler = library.CMStochasticIterativeScheduler(clip_denoised=False, **options)
    theirs = save(tmp_path, name, scheduler)
    model = cmtool.load(tmp_path, device="cpu")
    assert model.kind == "consistency"
    assert model.num_classes == SMALL[name].get("num_class_embeds", 0)
    label, z = labels(SMALL[name]), noise(16)
    for index in (0, 20, 37):
        scheduler.set_timesteps(timesteps=[index])
        t, sigma = scheduler.timesteps[0], scheduler.sigmas[0]
        # With one time the scheduler adds no noise to the denoised image.
        x = 0.3 + sigma * z
        with torch.no_grad():
            raw = theirs(scheduler.scale_model_input(x, t), t, label).sample
            close(model(x, sigma, label), scheduler.step(raw, t, x).prev_sample)


class Fixed:
    """Noise that was drawn before, in place of `SeedRng`."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = list(draws)

    def randn(self, shape: Sequence[int]) -> Tensor:
        return self.draws.pop(0)


@pytest.mark.parametrize(("name", "options"), CONSISTENCY)
def test_two_step_samples(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    scheduler = library.CMStochasticIterativeScheduler(**options)
    save(tmp_path, name, scheduler)
    pipeline = library.ConsistencyModelPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    model, label = cmtool.load(tmp_path, device="cpu"), labels(SMALL[name])
    assert isinstance(model.schedule, Karras)
    z, again = noise(16), torch.Generator().manual_seed(5)
    theirs = pipeline(
        batch_size=2,
        class_labels=label,
        timesteps=[22, 0],
        latents=z,
        generator=again,
        output_type="pt",
    ).images
    drawn = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    grid = model.schedule.grid(scheduler.config.num_train_timesteps)
    times = torch.stack([grid[0], grid[22]])
    ours = sample_consistency(
        model.bind(label, clamp=True),
        model.schedule,
        z.double() * times[0],
        times,
        rng=Fixed([drawn]),  # type: ignore[arg-type]
    )
    close((ours.float() / 2 + 0.5).clamp(0, 1), theirs)


DDPM = [
    ("cifar10", "epsilon", "linear"),
    ("cifar10", "epsilon", "scaled_linear"),
    ("cifar10", "v_prediction", "squaredcos_cap_v2"),
    ("cifar10", "sample", "linear"),
    ("tutorial", "epsilon", "squaredcos_cap_v2"),
    ("no-attention", "v_prediction", "linear"),
]


@pytest.mark.parametrize(("name", "prediction", "betas"), DDPM)
def test_ddpm_pipelines(name: str, prediction: str, betas: str, tmp_path: Path) -> None:
    scheduler = library.DDIMScheduler(
        prediction_type=prediction, beta_schedule=betas, clip_sample=False
    )
    theirs, config = save(tmp_path, name, scheduler), SMALL[name]
    model, label = cmtool.load(tmp_path, device="cpu"), labels(config)
    assert model.kind == "diffusion"
    kept = scheduler.alphas_cumprod.double()
    sigmas = ((1 - kept) / kept).sqrt()
    low, high = model.schedule.noise_range
    assert low == pytest.approx(float(sigmas[0]), rel=1e-3)  # theirs is float32
    assert high == pytest.approx(float(sigmas[-1]), rel=1e-3)
    x = noise(model.image_shape[1], model.image_shape[0])
    scheduler.set_timesteps(1000)
    for i in (3, 200, 700, 990):
        with torch.no_grad():
            there = scheduler.step(theirs(x, i, label).sample, i, x).pred_original_sample
            here = model(x * (1 + sigmas[i] ** 2).sqrt().float(), float(sigmas[i]), label)
        close(here, there)
    # DDIM is Euler's method on the noise level.
    scheduler.set_timesteps(2)
    sample, steps = x, scheduler.timesteps.tolist()
    with torch.no_grad():
        for t in steps:
            sample = scheduler.step(theirs(sample, t, label).sample, t, sample).prev_sample
    times = sigmas[steps]
    start = x.double() * (1 + times[0] ** 2).sqrt()
    close(sample_ode(model.bind(label), model.schedule, [Euler()], start, times).float(), sample)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, 0),
        ({"variant": "fp16"}, 1),
        ({"max_shard_size": "300KB"}, 0),
        ({"max_shard_size": "300KB", "variant": "fp16"}, 1),
        ({"safe_serialization": False}, 0),
    ],
)
def test_every_way_to_save_weights(options: dict[str, Any], told: int, tmp_path: Path) -> None:
    theirs = unet("cifar10")
    theirs.save_pretrained(tmp_path / "unet", **options)
    library.DDIMScheduler(clip_sample=False).save_pretrained(tmp_path / "scheduler")
    lines: list[str] = []
    found = reader.read(tmp_path, "x", {}, lines.append)
    back = reader.to_theirs(found.state, found.network, 16, 3, 0)  # type: ignore[arg-type]
    state = theirs.state_dict()
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert len(lines) == told


def test_all_files_in_one_folder_with_attentions_old_names(tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 was published in 2022."""
    theirs = unet("cifar10")
    theirs.save_pretrained(tmp_path)
    library.DDPMScheduler().save_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"], '
        '"unet": ["diffusers", "UNet2DModel"]}'
    )
    from safetensors.torch import load_file, save_file

    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {}
    for key, tensor in load_file(path).items():
        for new, name in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
            key = key.replace(f".{new}.", f".{name}.")
        old[key.replace(".to_out.0.", ".proj_attn.")] = tensor
    assert any(".query." in key for key in old)
    save_file(old, path)
    found = reader.read(tmp_path, "x", {}, silent)
    back = reader.to_theirs(found.state, found.network, 16, 3, 0)  # type: ignore[arg-type]
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())
