"""diffusers directories: what is refused and by which name, hostile files, and names of the Hub.
None of it needs diffusers."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers_models import CIFAR10, IMAGENET64, LSUN256, SMALL
from safetensors.torch import save_file

from cmtool.errors import CheckpointError, silent
from cmtool.foreign import diffusers, hub
from cmtool.foreign._diffusers_config import network, process
from cmtool.foreign._json import Fields
from cmtool.foreign._keymap import skeleton
from cmtool.networks.adm import Adm

CONSISTENCY = {"_class_name": "CMStochasticIterativeScheduler"}
DDPM = {"_class_name": "DDPMScheduler"}


def fields(values: dict[str, Any]) -> Fields:
    return Fields(Path("config.json"), dict(values))


def write(folder: Path, unet: dict[str, Any], scheduler: dict[str, Any] | None = None) -> Path:
    """A model's folder with weights of zeros."""
    spec, *facts = network(fields(unet), {"image_size": 8} if "sample_size" not in unet else {})
    like = diffusers.to_theirs(skeleton(spec, *facts), spec, *facts)
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/config.json").write_text(json.dumps(unet))
    zeros = {name: torch.zeros(t.shape) for name, t in like.items()}
    save_file(zeros, folder / "unet" / diffusers.WEIGHTS[0])
    (folder / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DModel"]}))
    if scheduler is not None:
        (folder / "scheduler").mkdir()
        (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def read(folder: Path, **facts: Any) -> Any:
    return diffusers.read(folder, folder.name, facts, silent)


def test_published_configurations() -> None:
    assert network(fields(IMAGENET64), {}) == (Adm(), 64, 3, 1000)
    lsun = Adm(
        channels=256,
        channel_mult=(1, 1, 2, 2, 4, 4),
        blocks=2,
        attention=(32, 16, 8),
        scale_shift=False,
    )
    assert network(fields(LSUN256), {}) == (lsun, 256, 3, 0)
    ddpm = Adm(
        channels=128,
        channel_mult=(1, 2, 2, 2),
        blocks=2,
        attention=(16,),
        head_channels=0,
        scale_shift=False,
        resblock_updown=False,
        flavor="ddpm",
    )
    assert network(fields(CIFAR10), {}) == (ddpm, 32, 3, 0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_class_name", "UNet2DConditionModel"),
        ("act_fn", "gelu"),
        ("add_attention", None),
        ("attention_head_dim", "8"),
        ("attn_norm_num_groups", 16),
        ("block_out_channels", [32, 48]),
        ("block_out_channels", [32, 64, 2**40]),
        ("block_out_channels", [True, True, True]),
        ("block_out_channels", list(range(1, 10**4))),
        ("center_input_sample", True),
        ("class_embed_type", "timestep"),
        ("down_block_types", ["DownBlock2D"]),
        ("down_block_types", ["SkipDownBlock2D", "AttnDownBlock2D", "DownBlock2D"]),
        ("downsample_padding", 1),
        ("dropout", "lots"),
        ("dropout", 1.5),
        ("flip_sin_to_cos", True),
        ("freq_shift", 0),
        ("in_channels", 4),
        ("layers_per_block", 10**9),
        ("layers_per_block", 0),
        ("mid_block_scale_factor", 1.4),
        ("mid_block_type", None),
        ("norm_eps", 1e-4),
        ("norm_num_groups", None),
        ("norm_num_groups", 0),
        ("num_class_embeds", -1),
        ("out_channels", 6),
        ("resnet_time_scale_shift", "spatial"),
        ("sample_size", [16, 32]),
        ("sample_size", 10**30),
        ("time_embedding_dim", 100),
        ("time_embedding_type", "fourier"),
        ("up_block_types", ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D"]),
        ("up_block_types", ["ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"]),
        ("upsample_type", "resnet"),
        ("something_new", 3),
    ],
)
def test_a_key_that_cannot_be_expressed_is_named(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        network(fields(SMALL["cifar10"] | {key: value}), {})
    # A few say it in our words: of the network that cannot be built.
    ours = {"norm_num_groups": "norm_groups", "layers_per_block": "blocks"}
    said = f"{caught.value.message}\n{caught.value.hint}"
    assert key in said or ours.get(key, key) in said
    assert len(caught.value.message) < 300


def test_the_middle_without_a_norm_is_refused() -> None:
    config = {k: v for k, v in IMAGENET64.items() if k != "attn_norm_num_groups"}
    with pytest.raises(CheckpointError, match=r"attn_norm_num_groups = null is not supported"):
        network(fields(config), {})


@pytest.mark.parametrize(
    ("scheduler", "key", "value"),
    [
        (DDPM, "_class_name", "ScoreSdeVeScheduler"),
        (DDPM, "trained_betas", [0.1, 0.2]),
        (DDPM, "rescale_betas_zero_snr", True),
        (DDPM, "beta_schedule", "sigmoid"),
        (DDPM, "prediction_type", "flow"),
        (DDPM, "beta_end", 2.0),
        (DDPM, "beta_start", -1),
        (DDPM, "num_train_timesteps", 10**9),
        (DDPM, "num_train_timesteps", 1.5),
        (DDPM, "something_new", "x"),
        (CONSISTENCY, "sigma_data", 0),
        (CONSISTENCY, "sigma_min", 90),
        (CONSISTENCY, "sigma_max", float("nan")),
        (CONSISTENCY, "sigma_max", 10**400),
        (CONSISTENCY, "rho", 0),
        (CONSISTENCY, "beta_start", 0.1),
    ],
)
def test_a_process_that_cannot_be_expressed_is_named(
    scheduler: dict[str, Any], key: str, value: Any
) -> None:
    with pytest.raises(CheckpointError, match=key):
        process(fields(scheduler | {key: value}), "model", {}, silent)


def test_what_concerns_their_sampler_alone_is_told() -> None:
    told: list[str] = []
    process(fields(DDPM | {"clip_sample": True, "thresholding": False}), "m", {}, told.append)
    assert told == ["config.json: clip_sample = true is left to diffusers"]
    told = []
    process(fields(CONSISTENCY | {"s_noise": 1.007}), "m", {}, told.append)
    assert told == ["config.json: s_noise = 1.007 is left to diffusers"]


def test_predict_epsilon_of_2022() -> None:
    settings = process(fields(DDPM | {"predict_epsilon": False}), "m", {}, silent).denoiser
    assert settings.prediction == "sample"


def test_a_model_without_scheduler_is_what_the_user_says(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", SMALL["tutorial"])
    told: list[str] = []
    found = diffusers.read(folder, "m", {"prediction": "v", "timesteps": 100}, told.append)
    assert (found.denoiser.prediction, found.denoiser.timesteps) == ("v", 100)
    assert "m does not tell betas: assuming linear (--as betas=... to change)" in told
    assert not any("prediction" in line for line in told)
    found = read(folder, precond="consistency", sigma_max=70.0)
    assert found.kind == "consistency"
    assert found.schedule.sigma_max == 70
    assert found.denoiser.noise_scale == 250
    with pytest.raises(CheckpointError, match="--as betas: means nothing"):
        read(folder, precond="consistency", betas="linear")
    with pytest.raises(CheckpointError, match="--as prediction: 'noise' is not supported"):
        read(folder, prediction="noise")


def test_facts_do_not_contradict_the_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", SMALL["tutorial"], DDPM)
    with pytest.raises(CheckpointError, match="tells more than --as prediction"):
        read(folder, prediction="v")
    with pytest.raises(CheckpointError, match="image_size=16 contradicts sample_size = 8"):
        read(folder, image_size=16)
    sizeless = {k: v for k, v in SMALL["tutorial"].items() if k != "sample_size"}
    folder = write(tmp_path / "n", sizeless, DDPM)
    assert read(folder, image_size=8).image_shape == (1, 8, 8)
    with pytest.raises(CheckpointError, match="does not tell the size") as caught:
        read(folder)
    assert caught.value.hint == "--as image_size=64"


def test_published_models_bring_their_two_steps(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", SMALL["tutorial"], CONSISTENCY)
    found = diffusers.read(folder, "openai/diffusers-cd_imagenet64_l2", {}, silent)
    assert found.times[2] == pytest.approx((80, 1.3824), rel=1e-4)
    assert read(folder).times == {}


def test_published_levels_are_not_taken_by_another_model_of_the_name(tmp_path: Path) -> None:
    unet = SMALL["imagenet64"]
    for i, scheduler in enumerate(({**CONSISTENCY, "sigma_max": 40.0}, DDPM)):
        folder = write(tmp_path / str(i) / "cd_imagenet64_l2", unet, scheduler)
        assert read(folder).times == {}


BIG = "[" * 10**5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "null",
        "\x00",
        BIG,
        '{"block_out_channels": ' + "9" * 10**4 + "}",
        "7" * 10**6,
    ],
    ids=range(8),
)
@pytest.mark.parametrize(
    "name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
)
def test_damaged_json(name: str, text: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", SMALL["tutorial"], DDPM)
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=name.rpartition("/")[2]):
        read(folder)


def test_a_file_too_large_for_json_is_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", SMALL["tutorial"], DDPM)
    with (folder / "unet/config.json").open("wb") as file:
        file.truncate(10**11)  # sparse
    with pytest.raises(CheckpointError, match="too large"):
        read(folder)


@pytest.mark.parametrize(
    "shard",
    ["../../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x.bin", "", 7, None, {}],
)
def test_an_index_names_only_its_neighbours(shard: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", SMALL["tutorial"], DDPM)
    (folder / "unet" / diffusers.WEIGHTS[0]).rename(tmp_path / "secret.safetensors")
    index = {"weight_map": {"conv_in.weight": shard}}
    (folder / "unet" / diffusers.WEIGHTS[1]).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="that is no safetensors file beside it"):
        read(folder)


def test_weights_that_are_not_the_configurations(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", SMALL["tutorial"], DDPM)
    config = SMALL["tutorial"] | {"num_class_embeds": 2**24}
    (folder / "unet/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"'class_embedding.weight' has shape \(10, 64\)"):
        read(folder)
    config["layers_per_block"] = 2
    (folder / "unet/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="missing"):
        read(folder)
    (folder / "unet" / diffusers.WEIGHTS[0]).unlink()
    with pytest.raises(CheckpointError, match="there are no weights"):
        read(folder)


def test_a_pipeline_with_an_autoencoder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", SMALL["tutorial"], DDPM)
    parts = {"vqvae": ["diffusers", "VQModel"], "unet": ["diffusers", "UNet2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(parts))
    with pytest.raises(CheckpointError, match="'vqvae'"):
        read(folder)


# The Hub. Nothing is fetched: its library is replaced, or offline with a cache made here.


def test_names_of_the_hub_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert hub.is_name("google/ddpm-cifar10-32")
    for text in (
        "runs/x",
        "models/x",
        "a",
        "a/b/c",
        "/a",
        "./a/b",
        "a/b.pt",
        "../b",
        "a/",
        "a b/c",
    ):
        assert not hub.is_name(text), text


def test_offline_with_a_cached_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cmtool

    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / "models--someone--digits"
    write(cache / "snapshots" / ("0" * 40), SMALL["tutorial"], DDPM)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("0" * 40)
    model = cmtool.load("someone/digits", device="cpu")
    assert model.image_shape == (1, 8, 8)
    with pytest.raises(CheckpointError, match="was fetched before") as caught:
        cmtool.load("someone/else")
    assert caught.value.hint == "on a machine with a network: hf download someone/else"


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="takes huggingface_hub") as caught:
        hub.fetch("someone/digits")
    assert "pip install 'cmtool[hub]'" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("there", "weights"),
    [
        (
            ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors"],
            ["unet/diffusion_pytorch_model.safetensors"],
        ),
        (["unet/diffusion_pytorch_model.bin"], ["unet/diffusion_pytorch_model.bin"]),
        (
            ["unet/diffusion_pytorch_model.safetensors.index.json"],
            [
                "unet/diffusion_pytorch_model.safetensors.index.json",
                "unet/diffusion_pytorch_model-*.safetensors",
            ],
        ),
        (
            ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16.bin"],
            ["diffusion_pytorch_model.fp16.safetensors"],
        ),
    ],
)
def test_only_what_is_needed_is_fetched(
    there: list[str], weights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "HF_HUB_OFFLINE", False)
    configs = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
    files = [*there, *configs, "README.md", "images/1.png", "train.py"]
    asked: dict[str, Any] = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return "folder"

    monkeypatch.setattr(library.HfApi, "list_repo_files", lambda self, name: files)
    monkeypatch.setattr(library, "snapshot_download", download)
    assert hub.fetch("someone/digits") == Path("folder")
    assert asked["name"] == "someone/digits"
    assert sorted(asked["patterns"]) == sorted([*configs, *weights])


def test_a_failing_network_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "HF_HUB_OFFLINE", False)

    def fail(self: Any, name: str) -> list[str]:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(library.HfApi, "list_repo_files", fail)
    with pytest.raises(CheckpointError, match=r"gives no model of that name: no route to host$"):
        hub.fetch("someone/digits")


def test_numbers_in_another_guise(tmp_path: Path) -> None:
    """3.0 is a size where 3 is, true is none."""
    spec, size, channels, _ = network(fields({**CIFAR10, "in_channels": 3.0}), {})
    assert (size, channels, type(channels)) == (32, 3, int)
    skeleton(spec, size, channels, 0)
    with pytest.raises(CheckpointError, match="in_channels = true"):
        network(fields({**CIFAR10, "in_channels": True}), {})
    with pytest.raises(CheckpointError, match="sample_size"):
        network(fields({**CIFAR10, "sample_size": [32, 32, 32]}), {})


def test_a_configuration_without_an_end(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", SMALL["tutorial"], DDPM)
    for target, says in (("/dev/zero", "no file"), (tmp_path / "huge", "too large")):
        (tmp_path / "huge").write_bytes(b" " * (2**22 + 1))
        config = folder / "unet/config.json"
        config.unlink()
        config.symlink_to(target)
        with pytest.raises(CheckpointError, match=says):
            read(folder)


def test_names_that_steer_a_terminal_are_written_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", SMALL["tutorial"], DDPM)
    (folder / "model_index.json").write_text(json.dumps({"\x1b[2J\nvae": ["a", "b" * 5000]}))
    with pytest.raises(CheckpointError) as caught:
        read(folder)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400 + len(str(folder))
    (folder / "model_index.json").write_text("{}")
    save_file({"\x1b[31m\n" * 100: torch.zeros(1)}, folder / "unet" / diffusers.WEIGHTS[0])
    with pytest.raises(CheckpointError, match="1 unexpected") as caught:
        read(folder)
    hint = caught.value.hint or ""
    assert "\\x1b" in hint
    assert "\x1b" not in hint
    assert len(hint) < 2000
