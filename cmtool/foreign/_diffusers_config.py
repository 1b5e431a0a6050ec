"""What the configurations in a diffusers directory mean: every key is used, or refused by name."""

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from cmtool.denoiser import Kind
from cmtool.errors import CheckpointError, Say
from cmtool.foreign._json import Fields
from cmtool.foreign._keymap import skeleton
from cmtool.foreign.base import settle
from cmtool.networks.adm import Adm
from cmtool.preconditioner import Betas, Prediction, ddpm_levels
from cmtool.schedules.karras import Karras
from cmtool.settings import DenoiserSettings

_DOWN = {"DownBlock2D": "conv", "ResnetDownsampleBlock2D": "resnet", "AttnDownBlock2D": None}
_UP = {"UpBlock2D": "conv", "ResnetUpsampleBlock2D": "resnet", "AttnUpBlock2D": None}
"""Kinds of levels, with how they change the size; None is what downsample_type or upsample_type
says."""

_FLAVORS: dict[tuple[float, bool, float], Literal["openai", "ddpm"]] = {
    (0, True, 1e-5): "openai",
    (1, False, 1e-6): "ddpm",
}

_BETAS: dict[str, Betas] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
}
_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v",
}

_OPTIONS = {
    "scalings": ("ddpm", "edm"),
    "prediction": tuple(_PREDICTIONS.values()),
    "betas": tuple(_BETAS.values()),
}
"""What --as can say of a network without a scheduler."""

_SCHEDULERS = ("CMStochasticIterativeScheduler", "DDPMScheduler", "DDIMScheduler", "PNDMScheduler")

_SAMPLER: dict[str, Any] = {
    "clip_denoised": True,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "s_noise": 1.0,
    "set_alpha_to_one": True,
    "skip_prk_steps": False,
    "steps_offset": 0,
    "tensor_format": "pt",
    "thresholding": False,
    "timestep_spacing": "leading",
    "timestep_values": None,
    "variance_type": "fixed_small",
}
"""Keys that concern only how diffusers itself draws images, with what changes nothing."""


def network(fields: Fields, facts: Mapping[str, Any]) -> tuple[Adm, int, int, int]:
    """A `UNet2DModel`'s configuration.

    Args:
        fields: unet/config.json.
        facts: What the user knows: image_size, where the configuration leaves it open.

    Returns:
        The network, the size of images, their channels and the number of classes.

    Raises:
        CheckpointError: It says something that is not expressible here.
    """
    fields.choice("_class_name", "UNet2DModel", ("UNet2DModel",))
    for key, default, options in (
        ("act_fn", "silu", ("silu", "swish")),
        ("center_input_sample", False, (False,)),
        ("class_embed_type", None, (None,)),
        ("mid_block_scale_factor", 1, (1,)),
        ("mid_block_type", "UNetMidBlock2D", ("UNetMidBlock2D",)),
        ("num_train_timesteps", None, (None,)),
        ("time_embedding_type", "positional", ("positional",)),
    ):
        fields.choice(key, default, options)
    widths = fields.row("block_out_channels", int)
    if not all(0 < width <= 2**16 and width % widths[0] == 0 for width in widths):
        raise fields.refuse("block_out_channels", "multiples of the first")
    fields.choice("time_embedding_dim", None, (None, 4 * widths[0]))
    channels = fields.choice("in_channels", 3, (1, 3))
    fields.choice("out_channels", 3, (channels,))
    size = _image_size(fields, facts)
    has_attention, resampling = _levels(fields, len(widths))
    flavor = _flavor(fields, resampling)
    scale_shift = fields.choice("resnet_time_scale_shift", "default", ("default", "scale_shift"))
    groups = fields.whole("norm_num_groups", 32, 2**16)
    middle = fields.flag("add_attention", True)
    same = (groups, None) if scale_shift == "default" or not middle else (groups,)
    fields.choice("attn_norm_num_groups", None, same)
    classes = fields.whole("num_class_embeds", 0, 2**24, null=0)
    try:
        spec = Adm(
            channels=widths[0],
            channel_mult=tuple(width // widths[0] for width in widths),
            blocks=fields.whole("layers_per_block", 2, 64),
            attention=tuple(size >> i for i, here in enumerate(has_attention) if here),
            # Absent is not null here: 8 channels, or one head of all.
            head_channels=fields.whole("attention_head_dim", 8, 2**16, null=0),
            dropout=fields.number("dropout", 0.0),
            scale_shift=scale_shift == "scale_shift",
            resblock_updown=resampling == "resnet",
            flavor=flavor,
            norm_groups=groups,
            middle_attention=middle,
        )
        skeleton(spec, size, channels, classes)
    except ValueError as error:
        raise CheckpointError(f"'{fields.path}': {error}") from None
    fields.close()
    return spec, size, channels, classes


def _image_size(fields: Fields, facts: Mapping[str, Any]) -> int:
    size: int | None = facts.get("image_size")
    if isinstance(fields.values.get("sample_size"), list):
        sizes = fields.row("sample_size", int)
        if len(sizes) > 2 or len(set(sizes)) != 1:
            raise fields.refuse("sample_size", "one size for height and width")
        size = sizes[0]
    elif fields.has("sample_size"):
        size = fields.whole("sample_size", 0, 2**13)
    if size is None:
        raise CheckpointError(
            f"'{fields.path}' does not tell the size of its images", "--as image_size=64"
        )
    if facts.get("image_size", size) != size:
        raise CheckpointError(
            f"--as image_size={facts['image_size']} contradicts sample_size = {size} in "
            f"'{fields.path}'",
            "drop it",
        )
    return size


def _levels(fields: Fields, count: int) -> tuple[list[bool], str]:
    """Which levels have attention, and whether convolutions ("conv") or blocks ("resnet") change
    the size between them."""
    ways: dict[str, list[str]] = {}
    attention: dict[str, list[bool]] = {}
    for direction, kinds in (("down", _DOWN), ("up", _UP)):
        key = f"{direction}_block_types"
        blocks = [name.removeprefix("UNetRes") for name in fields.row(key, str)]
        if len(blocks) != count or any(block not in kinds for block in blocks):
            raise fields.refuse(key, f"{count} of {', '.join(kinds)}")
        usual = fields.choice(f"{direction}sample_type", "conv", ("conv", "resnet"))
        # Where a path ends, nothing changes the size.
        ways[direction] = [kinds[block] or usual for block in blocks[:-1]]
        attention[direction] = [block.startswith("Attn") for block in blocks]
    if attention["up"][::-1] != attention["down"]:
        raise fields.refuse("up_block_types", "attention where down_block_types have it")
    used = set(ways["down"] + ways["up"])
    if len(used) > 1:
        told = "; ".join(f"{way}: {', '.join(kinds)}" for way, kinds in ways.items())
        raise CheckpointError(
            f"'{fields.path}': a size that changes in two ways ({told}) is not supported",
            "all of down_block_types, downsample_type, up_block_types, upsample_type must agree",
        )
    return attention["down"], next(iter(used), "conv")


def _flavor(fields: Fields, resampling: str) -> Literal["openai", "ddpm"]:
    keys = ("freq_shift", "flip_sin_to_cos", "norm_eps")
    found = (fields.number(keys[0], 0), fields.flag(keys[1], True), fields.number(keys[2], 1e-5))
    if found not in _FLAVORS:
        told = ", ".join(f"{k} = {json.dumps(v)}" for k, v in zip(keys, found, strict=True))
        raise CheckpointError(
            f"'{fields.path}': {told} is not supported together",
            "0, true, 1e-5 (OpenAI's network) and 1, false, 1e-6 (DDPM's) are",
        )
    flavor = _FLAVORS[found]
    padding = (0, 1) if resampling == "resnet" else (0 if flavor == "ddpm" else 1,)
    fields.choice("downsample_padding", 1, padding)
    return flavor


class Process(NamedTuple):
    """What a network was trained for."""

    kind: Kind
    denoiser: DenoiserSettings
    schedule: Karras
    origin: dict[str, str]


def process(fields: Fields | None, name: str, facts: Mapping[str, Any], say: Say) -> Process:
    """A scheduler's configuration.

    Args:
        fields: scheduler_config.json; None where there is none.
        name: Of the folder, for messages.
        facts: What the user knows, where there is none.
        say: Is told what is assumed and what is left out.

    Raises:
        CheckpointError: It says something that is not expressible here.
    """
    facts = {key: value for key, value in facts.items() if key != "image_size"}
    try:
        if fields is None:
            return _assumed(name, facts, say)
        if facts:
            raise CheckpointError(
                f"'{fields.path}' tells more than --as {', '.join(facts)}, which would contradict "
                f"it",
                "drop --as",
            )
        scheduler = fields.choice("_class_name", None, _SCHEDULERS)
        told = _consistency(fields) if scheduler == _SCHEDULERS[0] else _ddpm(fields)
    except ValueError as error:
        raise CheckpointError(f"'{name}': {error}") from None
    for key, neutral in _SAMPLER.items():
        fields.used.add(key)
        if fields.has(key) and fields.values[key] != neutral:
            say(f"{fields.path}: {key} = {json.dumps(fields.values[key])} is left to diffusers")
    fields.close()
    return told._replace(origin={"scheduler": scheduler, **told.origin})


def _consistency(fields: Fields) -> Process:
    levels = fields.whole("num_train_timesteps", 40, 10**6)
    boundary = fields.number("sigma_min", 0.002)
    settings = DenoiserSettings(
        "consistency",
        sigma_data=fields.number("sigma_data", 0.5),
        noise_scale=250.0,
        boundary=boundary,
    )
    schedule = Karras(boundary, fields.number("sigma_max", 80.0), fields.number("rho", 7.0))
    return Process("consistency", settings, schedule, {"levels": str(levels)})


def _ddpm(fields: Fields) -> Process:
    fields.choice("trained_betas", None, (None,))
    fields.choice("rescale_betas_zero_snr", False, (False,))
    # Configurations of 2022 say so.
    noise = fields.choice("predict_epsilon", True, (True, False, None)) is not False
    prediction = fields.choice(
        "prediction_type", "epsilon" if noise else "sample", tuple(_PREDICTIONS)
    )
    betas = fields.choice("beta_schedule", "linear", tuple(_BETAS))
    settings = DenoiserSettings(
        scalings="ddpm",
        prediction=_PREDICTIONS[prediction],
        betas=_BETAS[betas],
        beta_start=fields.number("beta_start", 0.0001),
        beta_end=fields.number("beta_end", 0.02),
        timesteps=fields.whole("num_train_timesteps", 1000, 10**5),
    )
    return Process("diffusion", settings, _ends(settings), {})


def _ends(settings: DenoiserSettings) -> Karras:
    """The noise range of numbered steps."""
    levels = ddpm_levels(
        settings.betas, settings.beta_start, settings.beta_end, settings.timesteps
    ).tolist()
    return Karras(levels[0], levels[-1])


def _assumed(name: str, facts: Mapping[str, Any], say: Say) -> Process:
    """Without a scheduler: what the user says, and the usual for the rest."""
    kind: Kind = "consistency" if facts.get("precond") == "consistency" else "diffusion"
    start = "edm" if kind == "consistency" else "ddpm"
    known = settle(name, facts, {"scalings": start}, say)
    if known["scalings"] == "ddpm":
        usual = ("prediction", "betas", "beta_start", "beta_end", "timesteps")
        assumed = {key: getattr(DenoiserSettings, key) for key in usual}
    else:
        assumed = {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}
    known = settle(name, known, {"precond": "edm", **assumed}, say)
    for key in known.keys() - {"precond", "scalings", *assumed}:
        raise CheckpointError(f"--as {key}: means nothing with scalings={known['scalings']}")
    for key, options in _OPTIONS.items():
        if known.get(key, options[0]) not in options:
            raise CheckpointError(
                f"--as {key}: '{known[key]}' is not supported here",
                f"--as {key}={' or '.join(options)}",
            )
    low, high = known.pop("sigma_min", None), known.pop("sigma_max", None)
    if known["scalings"] == "ddpm":
        settings = DenoiserSettings(**known)
        return Process(kind, settings, _ends(settings), {})
    settings = DenoiserSettings(**known, noise_scale=250.0, boundary=low)
    return Process(kind, settings, Karras(low, high), {})
