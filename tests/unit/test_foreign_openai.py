"""OpenAI's files: what is inferred, what is known by name, what is refused."""

import golden_cases
import pytest
import torch
from torch import Tensor

from cmtool.errors import CheckpointError
from cmtool.foreign import openai
from cmtool.foreign._keymap import skeleton
from cmtool.networks.adm import Adm

IMAGENET64 = Adm(
    channels=192, channel_mult=(1, 2, 3, 4), blocks=3, attention=(32, 16, 8), head_channels=64
)
LSUN256 = Adm(
    channels=256,
    channel_mult=(1, 1, 2, 2, 4, 4),
    blocks=2,
    attention=(32, 16, 8),
    head_channels=64,
    scale_shift=False,
)
SMALL = Adm(channels=32, channel_mult=(1, 2, 2), blocks=2, attention=(8, 2), head_channels=32)


def theirs(
    spec: Adm, image_size: int = 8, channels: int = 3, classes: int = 0
) -> dict[str, Tensor]:
    """A state dict in OpenAI's names, without numbers."""
    facts = (image_size, channels, classes)
    return openai.to_theirs(skeleton(spec, *facts), spec, *facts)


@pytest.mark.parametrize(
    ("spec", "image_size", "classes", "parameters", "keys"),
    [
        (IMAGENET64, 64, 1000, 295_899_267, 541),
        (LSUN256, 256, 0, 526_304_771, 566),
    ],
)
def test_published_sizes(
    spec: Adm, image_size: int, classes: int, parameters: int, keys: int
) -> None:
    """Numbers of parameters and of weights in the published files."""
    ours = skeleton(spec, image_size, 3, classes)
    table = openai.key_map(spec, image_size, 3, classes)
    assert sum(t.numel() for t in ours.values()) == parameters
    assert set(table) == set(ours)
    assert len(set(table.values())) == len(table) == keys
    state = theirs(spec, image_size, 3, classes)
    assert openai.infer(state, image_size, 64) == (spec, 3, classes)


@pytest.mark.parametrize("name", golden_cases.network_cases("UNetModel"))
def test_names_go_there_and_back(name: str) -> None:
    state, config = golden_cases.weights(name), golden_cases.cases()[name]["config"]
    facts = (config["image_size"], config["in_channels"], config["num_classes"] or 0)
    spec, *_ = openai.infer(state, config["image_size"], config["num_head_channels"])
    ours = openai.to_ours(state, spec, *facts)
    back = openai.to_theirs(ours, spec, *facts)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", golden_cases.network_cases("UNetModel"))
def test_infers_what_the_reference_was_built_with(name: str) -> None:
    config = golden_cases.cases()[name]["config"]
    size, heads = config["image_size"], config["num_head_channels"]
    spec, channels, classes = openai.infer(golden_cases.weights(name), size, heads)
    assert channels == config["in_channels"]
    assert classes == (config["num_classes"] or 0)
    assert spec == Adm(
        channels=config["model_channels"],
        channel_mult=tuple(config["channel_mult"]),
        blocks=config["num_res_blocks"],
        attention=tuple(
            sorted((size // ds for ds in config["attention_resolutions"]), reverse=True)
        ),
        head_channels=heads,
        scale_shift=config["use_scale_shift_norm"],
        resblock_updown=config["resblock_updown"],
    )


@pytest.mark.parametrize("scale_shift", [True, False])
@pytest.mark.parametrize("resblock_updown", [True, False])
@pytest.mark.parametrize("mult", [(1, 2, 2), (2, 1)])
@pytest.mark.parametrize("attention", [(), (8,), (4,)])
def test_infer_inverts_build(
    scale_shift: bool, resblock_updown: bool, mult: tuple[int, ...], attention: tuple[int, ...]
) -> None:
    spec = Adm(
        channels=32,
        channel_mult=mult,
        blocks=2,
        attention=attention,
        head_channels=32,
        scale_shift=scale_shift,
        resblock_updown=resblock_updown,
    )
    assert openai.infer(theirs(spec, 8, 1, 7), 8, 32) == (spec, 1, 7)


def test_half_precision_becomes_float32() -> None:
    spec = Adm(channels=32, channel_mult=(1,), blocks=1, attention=(), head_channels=32)
    state = {key: torch.zeros(t.shape, dtype=torch.half) for key, t in theirs(spec).items()}
    ours = openai.to_ours(state, spec, 8, 3, 0)
    assert {t.dtype for t in ours.values()} == {torch.float32}


def test_is_openai() -> None:
    assert openai.is_openai(theirs(SMALL))
    assert not openai.is_openai(skeleton(SMALL, 8, 3, 0))
    assert not openai.is_openai(dict.fromkeys(theirs(SMALL), 0))
    assert not openai.is_openai({})


def test_refuses_guided_diffusion_by_its_variance_outputs() -> None:
    state = theirs(SMALL)
    state["out.2.weight"] = torch.empty(6, 32, 3, 3, device="meta")
    with pytest.raises(CheckpointError, match=r"^a guided-diffusion file \(6 output channels"):
        openai.infer(state, 8, 32)


def test_refuses_guided_diffusion_by_its_attention() -> None:
    state = theirs(SMALL)
    state["middle_block.1.qkv.weight"] = state["middle_block.1.qkv.weight"][..., 0]
    with pytest.raises(CheckpointError, match=r"attention weights of 3 axes"):
        openai.infer(state, 8, 32)


def test_refuses_an_odd_number_of_outputs() -> None:
    state = theirs(SMALL)
    state["out.2.weight"] = torch.empty(4, 32, 3, 3, device="meta")
    with pytest.raises(CheckpointError, match=r"^4 output channels for 3 image channels$"):
        openai.infer(state, 8, 32)


def test_names_what_is_missing_and_unexpected() -> None:
    state = theirs(SMALL)
    del state["input_blocks.1.0.in_layers.0.weight"]
    state["extra.weight"] = torch.empty(1, device="meta")
    with pytest.raises(CheckpointError, match=r"^1 missing and 1 unexpected weights$") as caught:
        openai.infer(state, 8, 32)
    assert caught.value.hint is not None
    assert "missing: input_blocks.1.0.in_layers.0.weight" in caught.value.hint
    assert "unexpected: extra.weight" in caught.value.hint


def test_names_a_wrong_shape() -> None:
    state = theirs(SMALL)
    state["out.0.bias"] = torch.empty(7, device="meta")
    with pytest.raises(CheckpointError, match=r"^weight 'out_norm.bias' has shape \(7,\)"):
        openai.infer(state, 8, 32)


@pytest.mark.parametrize(
    ("image_size", "head_channels", "what"),
    [(8, 48, "is no multiple of 48"), (6, 32, "divisible by 4, got 6")],
)
def test_facts_that_do_not_fit(image_size: int, head_channels: int, what: str) -> None:
    with pytest.raises(CheckpointError, match=what) as caught:
        openai.infer(theirs(SMALL), image_size, head_channels)
    assert caught.value.hint == "pass the facts of the file: --as image_size=N --as head_channels=N"


@pytest.mark.parametrize("removed", ["output_blocks", "middle_block", "time_embed", "out.2"])
def test_part_of_a_file_is_no_traceback(removed: str) -> None:
    state = {key: t for key, t in theirs(SMALL).items() if not key.startswith(removed)}
    with pytest.raises(CheckpointError):
        openai.infer(state, 8, 32)


@pytest.mark.parametrize(
    "key",
    [
        "input_blocks.0.0.weight",
        "input_blocks.1.0.in_layers.0.weight",
        "middle_block.0.emb_layers.1.weight",
        "middle_block.1.qkv.weight",
        "output_blocks.0.0.out_layers.3.weight",
        "out.2.weight",
        "time_embed.0.weight",
        "label_emb.weight",
    ],
)
@pytest.mark.parametrize("shape", [(), (0, 0), (0, 0, 0, 0), (5, 5, 5, 5)])
def test_a_weight_of_any_shape_is_no_traceback(key: str, shape: tuple[int, ...]) -> None:
    state = theirs(SMALL, classes=3) | {key: torch.empty(shape, device="meta")}
    with pytest.raises(CheckpointError):
        openai.infer(state, 8, 32)


@pytest.mark.parametrize(
    ("name", "image_size", "precond", "levels"),
    [
        ("edm_imagenet64_ema.pt", 64, "edm", None),
        ("cd_imagenet64_l2.pt", 64, "consistency", 40),
        ("cd_imagenet64_lpips.pt", 64, "consistency", 40),
        ("ct_imagenet64.pt", 64, "consistency", 201),
        ("edm_bedroom256_ema.pt", 256, "edm", None),
        ("cd_bedroom256_l2.pt", 256, "consistency", 40),
        ("cd_bedroom256_lpips.pt", 256, "consistency", 40),
        ("ct_bedroom256.pt", 256, "consistency", 151),
        ("edm_cat256_ema.pt", 256, "edm", None),
        ("cd_cat256_l2.pt", 256, "consistency", 40),
        ("cd_cat256_lpips.pt", 256, "consistency", 40),
        ("ct_cat256.pt", 256, "consistency", 151),
    ],
)
def test_facts_of_the_published_files(
    name: str, image_size: int, precond: str, levels: int | None
) -> None:
    facts = dict(openai.PRESETS[name.removesuffix(".pt")])
    assert facts.pop("levels", None) == levels
    assert facts == {
        "image_size": image_size,
        "head_channels": 64,
        "precond": precond,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
    }


def test_there_are_twelve_published_files():
    assert len(openai.PRESETS) == 12
