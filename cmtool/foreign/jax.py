"""The CIFAR-10 checkpoints of the JAX code of the consistency models paper, read without JAX.

A file is flax's msgpack of a training state. Its `params_ema` are an NCSN++ whose modules are
numbered by kind in the order of their calls; convolutions are (H, W, in, out), matrices (in, out),
and attention has three separate projections. Not here: msgpack itself (`_msgpack.py`).
"""

import mmap
import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmtool.errors import CheckpointError, Say, foreign_name
from cmtool.foreign._keymap import check_names, check_shapes, key_table, skeleton
from cmtool.foreign._msgpack import Array, joined, looks_like, unpack
from cmtool.foreign.base import Published, known_by_name, settle
from cmtool.networks.ncsnpp import TAPS, Ncsnpp
from cmtool.schedules.karras import Karras
from cmtool.settings import DenoiserSettings

WEIGHTS = "params_ema"
_CIFAR10 = {"image_size": 32, "sigma_min": 0.002, "sigma_max": 80.0}
PRESETS: dict[str, dict[str, Any]] = {
    "edm_cifar10_ema": {"precond": "edm", **_CIFAR10},
    **{
        name: {"precond": "consistency", **_CIFAR10}
        for name in (
            *("cd-l1", "cd-l2", "cd-lpips", "ct-lpips"),
            *("continuous-cd-l2", "continuous-cd-l2-stopgrad", "continuous-cd-lpips-stopgrad"),
            *("continuous-ct-l2", "continuous-ct-lpips"),
        )
    },
}
"""What is known of a published file beside its arrays, by its own name or that of its folder. The
names of the continuous ones are ours, as nobody here has seen their folders."""

_BLOCK = "ResnetBlockBigGANpp"
_LEAVES = {
    "norm1": "GroupNorm_0",
    "conv1": "Conv_0",
    "affine": "Dense_0",
    "norm2": "GroupNorm_1",
    "conv2": "Conv_1",
    "skip": "Conv_2",
    "norm": "GroupNorm_0",
    "qkv": "NIN_012",
    "proj": "NIN_3",
}
_QKV = ("NIN_0", "NIN_1", "NIN_2")
_PARAMETERS = {"kernel": "weight", "W": "weight", "w": "weight", "scale": "weight", "b": "bias"}


def is_jax(start: bytes) -> bool:
    """Whether a file that starts so (16 bytes) may be a checkpoint of flax."""
    return looks_like(start)


def read(path: Path, facts: Mapping[str, Any], say: Say) -> Published:
    """Reads a checkpoint, of which only the averaged weights are brought into memory.

    Args:
        path: The file; its own name or its folders' may be one of `PRESETS`.
        facts: What the user knows of it, before the name.
        say: Is told every assumption.

    Raises:
        CheckpointError: It is damaged, or not such a checkpoint.
    """
    try:
        tree = _load(path)
        state, weights = _top(tree), _flat(tree[WEIGHTS])
    except CheckpointError as error:
        raise CheckpointError(
            f"'{path}' is not a whole checkpoint of flax: {error.message}", "fetch it again"
        ) from None
    usual = {"image_size": 32, "precond": "edm", "sigma_min": 0.002, "sigma_max": 80.0}
    folders = [part.removeprefix("cifar10-") for part in path.absolute().parts[:-4:-1]]
    name, told = known_by_name(path, PRESETS, facts, usual, folders)
    # Only consistency training has a target, and only it was done in continuous time.
    if not name and ("target_params" in state or "continuous" in " ".join(folders)):
        if "precond" not in told:
            say(f"{path.name}: assuming precond=consistency by what is in it or its folder's name")
        told = {"precond": "consistency", **told}
    known = settle(path.name, told, usual, say)
    size = int(known["image_size"])
    try:
        network, channels = infer(weights, size, lambda text: say(f"{path.name} {text}"))
        ours = to_ours(weights, network, size, channels)
        low, high = float(known["sigma_min"]), float(known["sigma_max"])
        schedule = Karras(low, high)
    except CheckpointError as error:
        raise CheckpointError(f"'{path}': {error.message}", error.hint) from None
    except ValueError as error:
        raise CheckpointError(f"--as: {error}") from None
    consistency = known["precond"] == "consistency"
    return Published(
        network=network,
        state=ours,
        denoiser=DenoiserSettings(known["precond"], boundary=low),
        schedule=schedule,
        kind="consistency" if consistency else "diffusion",
        image_shape=(channels, size, size),
        origin={"file": path.name, "layout": "jax"},
        # Level 11 of 18, in the notebook that comes with the JAX code.
        times={2: (80.0, 0.5853)} if name == "cd-lpips" and consistency and high == 80 else {},
    )


def infer(weights: Mapping[str, Tensor], image_size: int, say: Say) -> tuple[Ncsnpp, int]:
    """Reads the architecture off the arrays.

    Args:
        weights: Arrays by their names in the file, see `key_map`.
        image_size: Height and width of the images in pixels.
        say: Is told what had to be assumed.

    Returns:
        The network and the image channels.

    Raises:
        CheckpointError: The arrays are not those of an NCSN++.
    """
    if "GaussianFourierProjection_0.weight" not in weights:
        raise CheckpointError(
            "the file holds no NCSN++ with Fourier features",
            "a file of openai/consistency_models_cifar10 is needed",
        )
    channels, base = _axes(weights, "Conv_0.weight", 4)[2:]
    levels = _count(weights, "Downsample") + 1
    blocks, rest = divmod(_count(weights, _BLOCK) - 3 * levels, 2 * levels)
    if rest or blocks < 1 or levels > 10:
        raise CheckpointError(f"the residual blocks do not split into {levels} levels")
    widths = [
        _axes(weights, f"{_BLOCK}_{level * (blocks + 1)}.Conv_0.weight", 4)[3]
        for level in range(levels)
    ]
    if any(width % base for width in widths):
        raise CheckpointError(f"level widths {widths} are not multiples of {base} channels")
    try:
        spec = Ncsnpp(
            channels=base,
            channel_mult=tuple(width // base for width in widths),
            blocks=blocks,
            attention=_attention(weights, widths, blocks, image_size, say),
        )
        key_map(spec, image_size, channels)
    except ValueError as error:
        raise CheckpointError(f"image_size={image_size} does not fit: {error}") from None
    return spec, channels


def key_map(spec: Ncsnpp, image_size: int, channels: int) -> dict[str, str]:
    """Our weight names to those of the file, one to one; without the filters, which are constant.

    The names of the file are brought to one form first: `weight` and `bias` for all parameters, no
    module inside a `Downsample`, and `NIN_012` for the three projections of attention together.
    """
    keys = [k for k in skeleton(spec, image_size, channels, 0) if not k.endswith(".filter")]
    parameters = {"frequencies": "weight"}
    return key_table(keys, _modules(spec, image_size), _LEAVES, parameters)


def to_ours(
    weights: Mapping[str, Tensor], spec: Ncsnpp, image_size: int, channels: int
) -> dict[str, Tensor]:
    """Renames arrays and brings them into our layout, in float32.

    Raises:
        CheckpointError: Names or shapes are not those of `spec`.
    """
    table = key_map(spec, image_size, channels)
    check_names(weights, table.values())
    found = {ours: _convert(theirs, weights[theirs]) for ours, theirs in table.items()}
    expected = skeleton(spec, image_size, channels, 0)
    taps = torch.tensor(TAPS, dtype=torch.float32)
    fixed = {k: torch.outer(taps, taps) / taps.sum() ** 2 for k in expected if k not in found}
    found |= fixed
    check_shapes(found, expected)
    return {name: found[name] for name in expected}


def to_theirs(
    state: Mapping[str, Tensor], spec: Ncsnpp, image_size: int, channels: int
) -> dict[str, Tensor]:
    """Names and layouts of the file, `A/B/kernel` for each array, from our weights.

    Raises:
        CheckpointError: Names are not those of `spec`.
    """
    table = key_map(spec, image_size, channels)
    check_names((k for k in state if not k.endswith(".filter")), table)
    return {
        spelled: array
        for ours, theirs in table.items()
        for spelled, array in _spell(theirs, state[ours])
    }


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        return unpack(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _top(tree: Any) -> set[str]:
    if not isinstance(tree, dict) or not isinstance(tree.get(WEIGHTS), dict):
        has = (
            ", ".join(map(foreign_name, sorted(tree)[:8]))
            if isinstance(tree, dict)
            else "no dictionary"
        )
        raise CheckpointError(f"no '{WEIGHTS}' in it, but {has}")
    return set(tree)


def _flat(tree: Mapping[str, Any]) -> dict[str, Tensor]:
    """Arrays by name, in one form, with the projections of attention put together."""
    found: dict[str, Tensor] = {}
    for path, value in _leaves((), tree):
        *modules, leaf = path
        if modules and modules[0].startswith("Downsample_"):
            modules = modules[:1]
        name = ".".join([*modules, _PARAMETERS.get(leaf, leaf)])
        if name in found or not isinstance(value, Array):
            raise CheckpointError(f"'{foreign_name(name)}' is there twice, or is no array")
        found[name] = value.tensor()
    for name in [name for name in found if ".NIN_0." in name]:
        parts = [name.replace("NIN_0", one) for one in _QKV]
        if any(part not in found or found[part].ndim != found[name].ndim for part in parts):
            raise CheckpointError(
                f"'{foreign_name(name)}' without the other two projections of attention"
            )
        try:
            found[name.replace("NIN_0", "NIN_012")] = torch.cat([found[p] for p in parts], -1)
        except RuntimeError:
            raise CheckpointError(f"'{foreign_name(name)}': projections of unlike shapes") from None
        for part in parts:
            del found[part]
    return found


def _leaves(path: tuple[str, ...], tree: Any) -> Iterable[tuple[tuple[str, ...], Any]]:
    tree = joined(tree)
    if not isinstance(tree, dict):
        yield path, tree
        return
    for key, value in tree.items():
        yield from _leaves((*path, key), value)


def _convert(name: str, array: Tensor) -> Tensor:
    """One array of theirs in our layout."""
    array = array.float()
    if array.ndim == 4:
        return array.permute(3, 2, 0, 1).contiguous()
    if array.ndim == 2:
        return array.T.contiguous()[(..., None, None) if ".NIN_" in name else ...]
    return array


def _spell(name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
    """One tensor of ours under the file's own names, in its layout: one array, or three."""
    module, _, parameter = name.rpartition(".")
    kind = module.rpartition(".")[2].partition("_")[0]
    names = {"weight": "kernel", "bias": "bias"}
    if kind in ("NIN", "GaussianFourierProjection"):
        names = {"weight": "W", "bias": "b"}
        tensor = tensor[..., 0, 0] if tensor.ndim == 4 else tensor
    elif kind == "Downsample":
        module, names = f"{module}.Conv2d_0", {"weight": "w", "bias": "b"}
    elif kind == "GroupNorm":
        names = {"weight": "scale", "bias": "bias"}
    if tensor.ndim == 4:
        tensor = tensor.permute(2, 3, 1, 0)
    elif tensor.ndim == 2:
        tensor = tensor.T
    together = module.endswith("NIN_012")
    modules = [module.replace("NIN_012", one) for one in _QKV] if together else [module]
    for one, part in zip(modules, tensor.chunk(len(modules), -1), strict=True):
        yield f"{one}.{names[parameter]}".replace(".", "/"), part.contiguous()


def _modules(spec: Ncsnpp, image_size: int) -> dict[str, str]:
    """Paths of our modules to theirs, which are numbered in the order of their calls."""
    names = {
        "embedding": "GaussianFourierProjection_0",
        "embedding.linear1": "Dense_0",
        "embedding.linear2": "Dense_1",
        "stem": "Conv_0",
        "out_norm": "GroupNorm_0",
        "out_conv": "Conv_1",
    }
    blocks = 0
    attentions = 0

    def block(path: str, attention: bool) -> None:
        nonlocal blocks, attentions
        names[path] = f"{_BLOCK}_{blocks}"
        blocks += 1
        if attention:
            names[f"{path}.attention"] = f"AttnBlockpp_{attentions}"
            attentions += 1

    levels = range(len(spec.channel_mult))
    for level in levels:
        if level:
            block(f"encoder.{level}.down", False)
            names[f"encoder.{level}.side.conv"] = f"Downsample_{level - 1}"
        for i in range(spec.blocks):
            block(f"encoder.{level}.blocks.{i}", image_size >> level in spec.attention)
    block("middle.0", True)
    block("middle.1", False)
    for level in reversed(levels):
        if level < levels[-1]:
            block(f"decoder.{level}.up", False)
        for i in range(spec.blocks + 1):
            last = i == spec.blocks
            block(f"decoder.{level}.blocks.{i}", last and image_size >> level in spec.attention)
    return names


def _attention(
    weights: Mapping[str, Tensor], widths: list[int], blocks: int, image_size: int, say: Say
) -> tuple[int, ...]:
    """Resolutions with attention: as many levels as there are modules for, of their widths."""
    count, rest = divmod(_count(weights, "AttnBlockpp") - 1, blocks + 1)
    if rest or not 0 <= count <= len(widths):
        raise CheckpointError("the attention modules do not split into levels")
    found = [
        _axes(weights, f"AttnBlockpp_{i * blocks}.GroupNorm_0.weight", 1)[0] for i in range(count)
    ]
    fitting = [
        tuple(image_size >> level for level in chosen)
        for chosen in combinations(range(len(widths)), count)
        if [widths[level] for level in chosen] == found
    ]
    if len(fitting) == 1:
        return fitting[0]
    if (16,) in fitting:
        say("does not tell where attention is: assuming at 16x16, as published")
        return (16,)
    raise CheckpointError(f"{len(fitting)} places where the {count} levels of attention may be")


def _count(weights: Mapping[str, Tensor], kind: str) -> int:
    pattern = re.compile(rf"{kind}_\d+")
    return len(
        {first for first in (name.split(".")[0] for name in weights) if pattern.fullmatch(first)}
    )


def _axes(weights: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    if name not in weights or weights[name].ndim != axes:
        raise CheckpointError(f"array '{name}' is missing or has not {axes} axes")
    return tuple(weights[name].shape)
