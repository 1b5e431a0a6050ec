"""diffusers directories: a `UNet2DModel`, and the scheduler that tells what it was trained for.

Not here: what the configurations mean (`_diffusers_config.py`), fetching them by name (`hub.py`).
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmtool.errors import CheckpointError, Say, foreign_name
from cmtool.foreign._diffusers_config import network, process
from cmtool.foreign._json import Fields
from cmtool.foreign._keymap import check_names, check_shapes, key_table, skeleton
from cmtool.foreign.base import Published, numbered, published_times
from cmtool.foreign.torch_file import open_file
from cmtool.networks.adm import Adm
from cmtool.tensor_file import read_tensors

WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
)
"""Where weights may be, best first."""

_LEAVES = {
    "norm1": "norm1",
    "conv1": "conv1",
    "affine": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
    "norm": "group_norm",
    "qkv": "qkv",
    "proj": "to_out.0",
    "conv": "conv",
}
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names inside attention before diffusers 0.15."""


def is_diffusers(folder: Path) -> bool:
    """Whether a folder is laid out as a pipeline or a model of diffusers."""
    return any((folder / name).is_file() for name in ("model_index.json", "config.json"))


def read(folder: Path, name: str, facts: Mapping[str, Any], say: Say) -> Published:
    """Reads a folder for which `is_diffusers` holds.

    Args:
        folder: A pipeline (model_index.json, unet/, scheduler/; or all in one folder), or a model
            alone (config.json and its weights).
        name: What it is called where it is from; more is known of some.
        facts: What the user knows of it; only what the folder does not tell.
        say: Is told every assumption.

    Raises:
        CheckpointError: Something is missing, damaged, or not expressible here; the text names it.
    """
    if (folder / "model_index.json").is_file():
        _check_pipeline(folder / "model_index.json")
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    spec, image_size, channels, num_classes = network(Fields.read(unet / "config.json"), facts)
    found = [folder / part / "scheduler_config.json" for part in ("scheduler", ".")]
    scheduler = next((Fields.read(path) for path in found if path.is_file()), None)
    kind, denoiser, schedule, origin = process(scheduler, name, facts, say)
    state = to_ours(_read_weights(unet, say), spec, image_size, channels, num_classes)
    return Published(
        network=spec,
        state=state,
        denoiser=denoiser,
        schedule=schedule,
        kind=kind,
        image_shape=(channels, image_size, image_size),
        classes=numbered(num_classes),
        origin={"file": name, "layout": "diffusers", **origin},
        times=published_times(name, schedule) if kind == "consistency" else {},
    )


def key_map(
    spec: Adm, image_size: int, channels: int, num_classes: int
) -> dict[str, tuple[str, ...]]:
    """Our weight names to diffusers': one each, or three where we have queries, keys and values in
    one."""
    keys = skeleton(spec, image_size, channels, num_classes)
    table = key_table(keys, _modules(spec), _LEAVES, {})
    return {
        ours: tuple(theirs.replace(".qkv.", f".to_{part}.") for part in "qkv")
        if ".qkv." in theirs
        else (theirs,)
        for ours, theirs in table.items()
    }


def to_ours(
    state: Mapping[str, Tensor], spec: Adm, image_size: int, channels: int, num_classes: int
) -> dict[str, Tensor]:
    """Renames diffusers' weights and brings them into our layout, in float32.

    Raises:
        CheckpointError: Names or shapes are not those of `spec`.
    """
    state = {_renamed(name): tensor for name, tensor in state.items()}
    table = key_map(spec, image_size, channels, num_classes)
    check_names(state, (name for names in table.values() for name in names))
    expected = skeleton(spec, image_size, channels, num_classes)
    theirs = to_theirs(expected, spec, image_size, channels, num_classes)
    check_shapes(state, theirs)
    return {
        ours: torch.cat([state[name].float() for name in names]).reshape(expected[ours].shape)
        for ours, names in table.items()
    }


def to_theirs(
    state: Mapping[str, Tensor], spec: Adm, image_size: int, channels: int, num_classes: int
) -> dict[str, Tensor]:
    """Renames our weights and brings them into diffusers' layout.

    Raises:
        CheckpointError: Names are not those of `spec`.
    """
    table = key_map(spec, image_size, channels, num_classes)
    check_names(state, table)
    converted: dict[str, Tensor] = {}
    for ours, names in table.items():
        tensor = state[ours]
        if ".attention." in ours and tensor.ndim == 4:  # Linear layers there, 1x1 convolutions here
            tensor = tensor.flatten(1)
        converted.update(zip(names, tensor.chunk(len(names)), strict=True))
    return converted


def _modules(spec: Adm) -> dict[str, str]:
    """Paths of our modules to diffusers', whose levels end with the way to the next."""
    names = {
        "embedding.linear1": "time_embedding.linear_1",
        "embedding.linear2": "time_embedding.linear_2",
        "embedding.label": "class_embedding",
        "stem": "conv_in",
        "middle.0": "mid_block.resnets.0",
        "middle.0.attention": "mid_block.attentions.0",
        "middle.1": "mid_block.resnets.1",
        "out_norm": "conv_norm_out",
        "out_conv": "conv_out",
    }
    last = len(spec.channel_mult) - 1
    for level in range(last + 1):
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        names[f"encoder.{level + 1}.down"] = f"{down}.downsamplers.0"
        names[f"decoder.{level - 1}.up"] = f"{up}.upsamplers.0"
        for block in range(spec.blocks + 1):
            for ours, theirs in ((f"encoder.{level}", down), (f"decoder.{level}", up)):
                path = f"{ours}.blocks.{block}"
                names[path] = f"{theirs}.resnets.{block}"
                names[f"{path}.attention"] = f"{theirs}.attentions.{block}"
    return names


def _renamed(name: str) -> str:
    path, _, rest = name.partition(".attentions.")
    number, _, leaf = rest.partition(".")
    module, _, parameter = leaf.rpartition(".")
    if module not in _OLD:
        return name
    return f"{path}.attentions.{number}.{_OLD[module]}.{parameter}"


def _check_pipeline(path: Path) -> None:
    """A pipeline with other parts, such as an autoencoder, is not what its U-Net alone computes."""
    parts = {
        name: part
        for name, part in Fields.read(path).values.items()
        if not name.startswith("_") and part != [None, None] and isinstance(part, list)
    }
    for name, part in parts.items():
        if name not in ("unet", "scheduler"):
            raise CheckpointError(
                f"'{path}' is a pipeline with a part that is not known here: "
                f"'{foreign_name(name)}' {foreign_name(str(part))}",
                "pipelines of a 'unet' and a 'scheduler' can be read",
            )


def _read_weights(folder: Path, say: Say) -> dict[str, Tensor]:
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"there are no weights in '{folder}'", f"it needs {WEIGHTS[0]}")
    if ".fp16." in path.name:
        say(f"{folder} holds its weights only in half precision ({path.name})")
    return _read_shards(path) if path.suffix == ".json" else _reader(path)(path)


def _reader(path: Path) -> Callable[[Path], dict[str, Tensor]]:
    return _read_bin if path.suffix == ".bin" else read_tensors


def _read_shards(index: Path) -> dict[str, Tensor]:
    """All weights of an index; its files lie beside it."""
    places = Fields.read(index).values.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"'{index}' has no 'weight_map'", "fetch it again")
    state: dict[str, Tensor] = {}
    for name in sorted({str(place) for place in places.values()}):
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise CheckpointError(
                f"'{index}' names a file that is no safetensors file beside it: "
                f"'{foreign_name(name)}'",
                "do not use this model: its index may have been made to do harm",
            )
        if not (index.parent / name).is_file():
            raise CheckpointError(f"'{index}' names '{name}', which is not there", "fetch it")
        state |= read_tensors(index.parent / name)
    check_names(state, places)
    return state


def _read_bin(path: Path) -> dict[str, Tensor]:
    file = open_file(path)
    state = file.state(file.content)
    if state is None:
        raise CheckpointError(f"'{path}' does not hold weights by name", "use a safetensors file")
    return state
