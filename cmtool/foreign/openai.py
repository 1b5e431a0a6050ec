"""OpenAI's consistency-model checkpoints, `edm_*.pt`, `cd_*.pt`, `ct_*.pt`: plain state dicts.

The tensors tell the architecture but for the image size and the channels of an attention head;
those, the preconditioning and the noise range are known for the published files by name. Names
differ from ours, layouts do not. Not here: reading the file itself.
"""

import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cmtool.errors import CheckpointError, Say
from cmtool.foreign._keymap import check_names, check_shapes, key_table, skeleton
from cmtool.foreign.base import Published, known_by_name, numbered, published_times, settle
from cmtool.networks.adm import Adm
from cmtool.schedules.karras import Karras
from cmtool.settings import DenoiserSettings

_LEAVES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "affine": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
    "norm": "norm",
    "qkv": "qkv",
    "proj": "proj_out",
    "conv": "conv",
}


def _facts(precond: str, image_size: int, levels: int | None) -> dict[str, Any]:
    trained = {} if levels is None else {"levels": levels}
    sigmas = {"sigma_min": 0.002, "sigma_max": 80.0}
    return {"image_size": image_size, "head_channels": 64, "precond": precond, **sigmas, **trained}


PRESETS: dict[str, dict[str, Any]] = {
    "edm_imagenet64_ema": _facts("edm", 64, None),
    "cd_imagenet64_l2": _facts("consistency", 64, 40),
    "cd_imagenet64_lpips": _facts("consistency", 64, 40),
    "ct_imagenet64": _facts("consistency", 64, 201),
    **{
        name.format(data): _facts(precond, 256, levels)
        for data in ("bedroom256", "cat256")
        for name, precond, levels in (
            ("edm_{}_ema", "edm", None),
            ("cd_{}_l2", "consistency", 40),
            ("cd_{}_lpips", "consistency", 40),
            ("ct_{}", "consistency", 151),
        )
    },
}
"""What is known of the published files beyond their tensors: image_size and head_channels; precond,
'edm' or 'consistency'; sigma_min and sigma_max; levels, the number of noise levels that a
consistency model was trained on.

Source: Song et al. 2023, arXiv 2303.01469, appendix C, and the launch script of
openai/consistency_models.
"""


def is_openai(state: Mapping[str, object]) -> bool:
    """Whether a state dict has the names of OpenAI's U-Net."""
    marks = (
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "middle_block.1.qkv.weight",
        "out.2.weight",
    )
    tensors = all(isinstance(value, Tensor) for value in state.values())
    return tensors and all(mark in state for mark in marks)


def read(
    path: Path,
    state: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    say: Say,
    image_size: int | None = None,
) -> Published:
    """Reads a state dict for which `is_openai` holds.

    Args:
        path: Its file, whose name may be one of `PRESETS`.
        state: The weights.
        facts: What the user knows of it, before the name.
        say: Is told every assumption.
        image_size: What to assume where neither the user nor the name tells it.

    Raises:
        CheckpointError: The weights are not those of such a network, or facts are missing or wrong.
    """
    usual: dict[str, Any] = {
        "head_channels": 64,
        "precond": "edm",
        "sigma_min": 0.002,
        "sigma_max": 80.0,
    }
    keys = {"image_size", *usual}
    name, told = known_by_name(path, PRESETS, facts, keys, [path.stem])
    if image_size is not None:
        usual["image_size"] = image_size
    known = settle(path.name, told, usual, say)
    if "image_size" not in known:
        raise CheckpointError(
            f"'{path}' does not tell the size of its images",
            f"--as image_size=64, for example, or --as PRESET: {', '.join(PRESETS)}",
        )
    size = int(known["image_size"])
    network, channels, num_classes = infer(state, size, int(known["head_channels"]))
    try:
        schedule = Karras(float(known["sigma_min"]), float(known["sigma_max"]))
    except ValueError as error:
        raise CheckpointError(f"--as: {error}") from None
    return Published(
        network=network,
        state=to_ours(state, network, size, channels, num_classes),
        denoiser=DenoiserSettings(
            known["precond"], noise_scale=250.0, boundary=float(known["sigma_min"])
        ),
        schedule=schedule,
        kind="consistency" if known["precond"] == "consistency" else "diffusion",
        image_shape=(channels, size, size),
        classes=numbered(num_classes),
        origin={"file": path.name, "layout": "openai"},
        times=published_times(name, schedule) if known["precond"] == "consistency" else {},
    )


def infer(state: Mapping[str, Tensor], image_size: int, head_channels: int) -> tuple[Adm, int, int]:
    """Reads the architecture off the tensors.

    Args:
        state: A state dict for which `is_openai` holds.
        image_size: Height and width of the images in pixels.
        head_channels: Channels of an attention head.

    Returns:
        The network, the image channels and the number of classes.

    Raises:
        CheckpointError: The tensors are not those of such a network, or do not fit the two facts.
    """
    image_channels = _shape(state, "input_blocks.0.0.weight", axes=4)[1]
    _refuse_guided_diffusion(state, image_channels)
    base = _shape(state, "time_embed.0.weight", axes=2)[1]
    ends = _level_ends(state)
    total = len({key.split(".")[1] for key in state if key.startswith("output_blocks.")})
    per_level = ends[0] + 1 if ends else total
    if not base or total != per_level * (len(ends) + 1) or per_level < 2:
        raise CheckpointError(
            f"the decoder's {total} blocks do not split into {len(ends) + 1} levels"
        )
    widths, attention = [], []
    for level in range(len(ends) + 1):
        first = total - (level + 1) * per_level
        widths.append(_shape(state, f"output_blocks.{first}.0.out_layers.3.weight", axes=4)[0])
        if f"output_blocks.{first}.1.qkv.weight" in state:
            attention.append(image_size >> level)
    if any(width % base for width in widths):
        raise CheckpointError(f"level widths {widths} are not multiples of {base} channels")
    affine = _shape(state, "middle_block.0.emb_layers.1.weight", axes=2)[0]
    num_classes = 0
    if "label_emb.weight" in state:
        num_classes = _shape(state, "label_emb.weight", axes=2)[0]
    try:
        spec = Adm(
            channels=base,
            channel_mult=tuple(width // base for width in widths),
            blocks=per_level - 1,
            attention=tuple(attention),
            head_channels=head_channels,
            scale_shift=affine == 2 * widths[-1],
            resblock_updown=not any(
                re.fullmatch(r"output_blocks\.\d+\.\d\.conv\.weight", k) for k in state
            ),
        )
        expected = skeleton(spec, image_size, image_channels, num_classes)
    except ValueError as error:
        raise CheckpointError(
            f"image_size={image_size} and head_channels={head_channels} do not fit: {error}",
            hint="pass the facts of the file: --as image_size=N --as head_channels=N",
        ) from error
    table = key_map(spec, image_size, image_channels, num_classes)
    check_names(state, table.values())
    check_shapes({ours: state[theirs] for ours, theirs in table.items()}, expected)
    return spec, image_channels, num_classes


def key_map(spec: Adm, image_size: int, channels: int, num_classes: int) -> dict[str, str]:
    """Our weight names to OpenAI's, one to one."""
    keys = skeleton(spec, image_size, channels, num_classes)
    return key_table(keys, _modules(spec, keys), _LEAVES, {})


def to_ours(
    state: Mapping[str, Tensor], spec: Adm, image_size: int, channels: int, num_classes: int
) -> dict[str, Tensor]:
    """Renames OpenAI's weights, in float32.

    Raises:
        CheckpointError: Names or shapes are not those of `spec`.
    """
    table = key_map(spec, image_size, channels, num_classes)
    check_names(state, table.values())
    renamed = {ours: state[theirs].float() for ours, theirs in table.items()}
    check_shapes(renamed, skeleton(spec, image_size, channels, num_classes))
    return renamed


def to_theirs(
    state: Mapping[str, Tensor], spec: Adm, image_size: int, channels: int, num_classes: int
) -> dict[str, Tensor]:
    """Renames our weights as OpenAI's code reads them.

    Raises:
        CheckpointError: Names are not those of `spec`.
    """
    table = key_map(spec, image_size, channels, num_classes)
    check_names(state, table)
    return {theirs: state[ours] for ours, theirs in table.items()}


def _modules(spec: Adm, keys: Container[str]) -> dict[str, str]:
    """Paths of our modules to OpenAI's, whose blocks are numbered through the levels."""
    names = {
        "embedding.linear1": "time_embed.0",
        "embedding.linear2": "time_embed.2",
        "embedding.label": "label_emb",
        "stem": "input_blocks.0.0",
        "middle.0": "middle_block.0",
        "middle.0.attention": "middle_block.1",
        "middle.1": "middle_block.2",
        "out_norm": "out.0",
        "out_conv": "out.2",
    }
    levels = len(spec.channel_mult)
    k = 1
    for level in range(levels):
        if level > 0:
            names[f"encoder.{level}.down"] = f"input_blocks.{k}.0"
            names[f"encoder.{level}.down.conv"] = f"input_blocks.{k}.0.op"
            k += 1
        for block in range(spec.blocks):
            names[f"encoder.{level}.blocks.{block}"] = f"input_blocks.{k}.0"
            names[f"encoder.{level}.blocks.{block}.attention"] = f"input_blocks.{k}.1"
            k += 1
    k = 0
    for level in reversed(range(levels)):
        for block in range(spec.blocks + 1):
            names[f"decoder.{level}.blocks.{block}"] = f"output_blocks.{k}.0"
            names[f"decoder.{level}.blocks.{block}.attention"] = f"output_blocks.{k}.1"
            k += 1
        if level > 0:
            # The way up is the last module of the coarser level's last block.
            last = f"decoder.{level}.blocks.{spec.blocks}.attention.qkv.weight"
            names[f"decoder.{level - 1}.up"] = f"output_blocks.{k - 1}.{2 if last in keys else 1}"
    return names


def _level_ends(state: Mapping[str, Tensor]) -> list[int]:
    """Numbers of the decoder blocks that end with a way up."""
    pattern = re.compile(r"output_blocks\.(\d+)\.[12]\.(?:in_layers\.0|conv)\.weight")
    return sorted(int(found[1]) for found in map(pattern.fullmatch, state) if found)


def _tensor(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise CheckpointError(f"weight '{name}' of OpenAI's network is missing")
    return state[name]


def _shape(state: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    shape = tuple(_tensor(state, name).shape)
    if len(shape) != axes:
        raise CheckpointError(f"weight '{name}' has shape {shape}, not {axes} axes")
    return shape


def _refuse_guided_diffusion(state: Mapping[str, Tensor], image_channels: int) -> None:
    """Those files have the same names, but may order the channels of attention by heads first.

    Their attention is made of 1-d convolutions, whose weights have an axis less, whatever else they
    were built with. Their two orders cannot be told apart, so neither is read.
    """
    outputs = _shape(state, "out.2.weight", axes=4)[0]
    qkv = _tensor(state, "middle_block.1.qkv.weight")
    if outputs == 2 * image_channels or qkv.ndim == 3:
        raise CheckpointError(
            f"a guided-diffusion file ({outputs} output channels, attention weights of "
            f"{qkv.ndim} axes): its attention orders the channels differently",
            hint="use a file of openai/consistency_models: edm_*.pt, cd_*.pt or ct_*.pt",
        )
    if outputs != image_channels:
        raise CheckpointError(f"{outputs} output channels for {image_channels} image channels")
