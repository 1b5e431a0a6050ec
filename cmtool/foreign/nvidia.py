"""NVIDIA EDM networks: the names and layouts of their weights.

Their modules are named by resolution, the three projections of attention are interleaved (head, d,
q k v) where ours are in blocks (q k v, head, d), and ADM's classes are a matrix on one-hot vectors.
Not here: reading their pickles.
"""

from collections.abc import Mapping

from torch import Tensor

from cmtool.foreign._keymap import check_names, check_shapes, key_table, skeleton
from cmtool.networks.adm import Adm
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.networks.ncsnpp import Ncsnpp

Spec = Adm | Ddpmpp | Ncsnpp

_LEAVES = {
    "norm1": "norm0",
    "conv1": "conv0",
    "resample": "conv0",
    "affine": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
    "skip": "skip",
    "attention.norm": "norm2",
    "attention.qkv": "qkv",
    "attention.proj": "proj",
}
_PARAMETERS = {"filter": "resample_filter", "frequencies": "freqs"}


def key_map(spec: Spec, image_size: int, channels: int, num_classes: int) -> dict[str, str]:
    """Our weight names to NVIDIA's, one to one."""
    keys = skeleton(spec, image_size, channels, num_classes)
    return key_table(keys, _modules(spec, image_size), _LEAVES, _PARAMETERS)


def to_ours(
    state: Mapping[str, Tensor], spec: Spec, image_size: int, channels: int, num_classes: int
) -> dict[str, Tensor]:
    """Renames NVIDIA's weights and brings them into our layout, in float32.

    What a network with another preconditioning has beside it is left out: noise levels (`u`), the
    second half of iDDPM's outputs (its variances), and constant filters that we hold once or
    compute.

    Raises:
        CheckpointError: Names or shapes are not those of `spec`.
    """
    table = key_map(spec, image_size, channels, num_classes)
    needed = set(table.values())
    check_names((k for k in state if k in needed or not _constant(k)), needed)
    found = {ours: state[theirs].float() for ours, theirs in table.items()}
    for name in ("out_conv.weight", "out_conv.bias"):
        found[name] = found[name][:channels]
    expected = skeleton(spec, image_size, channels, num_classes)
    check_shapes(found, {name: _back(name, t, spec) for name, t in expected.items()})
    return {name: _convert(name, t, spec) for name, t in found.items()}


def to_theirs(
    state: Mapping[str, Tensor], spec: Spec, image_size: int, channels: int, num_classes: int
) -> dict[str, Tensor]:
    """Renames our weights and brings them into NVIDIA's layout, without their constant filters.

    Raises:
        CheckpointError: Names are not those of `spec`.
    """
    table = key_map(spec, image_size, channels, num_classes)
    check_names(state, table)
    return {
        theirs: _back(ours, state[ours], spec)
        for ours, theirs in table.items()
        if not _constant(theirs)
    }


def _constant(name: str) -> bool:
    return name == "u" or name.endswith("resample_filter")


def _convert(name: str, tensor: Tensor, spec: Spec) -> Tensor:
    """One tensor of theirs, given its name here, in our layout."""
    if ".attention.qkv." in name:
        heads = _heads(spec, tensor)
        blocks = tensor.reshape(heads, -1, 3, *tensor.shape[1:])
        return blocks.movedim(2, 0).reshape(tensor.shape)
    if name.endswith(".filter"):
        return tensor[0, 0]
    if name == "embedding.label.weight" and isinstance(spec, Adm):
        return tensor.T.contiguous()
    return tensor


def _back(name: str, tensor: Tensor, spec: Spec) -> Tensor:
    """One tensor of ours in their layout."""
    if ".attention.qkv." in name:
        heads = _heads(spec, tensor)
        blocks = tensor.reshape(3, heads, -1, *tensor.shape[1:])
        return blocks.movedim(0, 2).reshape(tensor.shape)
    if name.endswith(".filter"):
        return tensor[None, None]
    if name == "embedding.label.weight" and isinstance(spec, Adm):
        return tensor.T.contiguous()
    return tensor


def _heads(spec: Spec, qkv: Tensor) -> int:
    return spec.heads(qkv.shape[0] // 3) if isinstance(spec, Adm) else 1


def _modules(spec: Spec, image_size: int) -> dict[str, str]:
    """Paths of our modules to NVIDIA's."""
    sizes = [
        f"{image_size >> level}x{image_size >> level}" for level in range(len(spec.channel_mult))
    ]
    out = "model.out" if isinstance(spec, Adm) else f"model.dec.{sizes[0]}_aux"
    names = {
        "embedding": "model.map_noise",
        "embedding.linear1": "model.map_layer0",
        "embedding.linear2": "model.map_layer1",
        "embedding.label": "model.map_label",
        "embedding.augment": "model.map_augment",
        "stem": f"model.enc.{sizes[0]}_conv",
        "middle.0": f"model.dec.{sizes[-1]}_in0",
        "middle.1": f"model.dec.{sizes[-1]}_in1",
        "out_norm": f"{out}_norm",
        "out_conv": f"{out}_conv",
    }
    for level, size in enumerate(sizes):
        names[f"encoder.{level}.down"] = f"model.enc.{size}_down"
        names[f"encoder.{level}.side.conv"] = f"model.enc.{size}_aux_residual"
        names[f"encoder.{level}.side.resample"] = f"model.enc.{size}_aux_residual"
        names[f"decoder.{level}.up"] = f"model.dec.{size}_up"
        for block in range(spec.blocks + 1):
            names[f"encoder.{level}.blocks.{block}"] = f"model.enc.{size}_block{block}"
            names[f"decoder.{level}.blocks.{block}"] = f"model.dec.{size}_block{block}"
    return names
