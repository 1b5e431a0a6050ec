"""NVIDIA EDM2 networks: the names and layouts of their weights.

Modules are named by resolution; the three projections of attention are interleaved (head, d, q k v)
where ours are in blocks (q k v, head, d). The head that learned a log-variance beside the network
has no use here and is left out. Not here: reading their pickles.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cmtool.errors import CheckpointError
from cmtool.foreign._keymap import check_names, check_shapes, key_table, skeleton
from cmtool.networks.edm2 import Edm2

_LEAVES = {
    "conv1": "conv_res0",
    "affine": "emb_linear",
    "conv2": "conv_res1",
    "skip": "conv_skip",
    "attention.qkv": "attn_qkv",
    "attention.proj": "attn_proj",
}
_PARAMETERS = {"affine_gain": "emb_gain", "frequencies": "freqs", "offsets": "phases"}
_FIXED: dict[str, Any] = {
    "resample_filter": (1, 1),
    "channel_mult_noise": None,
    "channel_mult_emb": None,
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
}
"""What every published network has, and ours."""
_UNUSED = ("use_fp16", "logvar_channels", "sigma_data", "force_fp32")


def infer(init_kwargs: Mapping[str, Any]) -> tuple[Edm2, int, int, int]:
    """Reads the architecture off the arguments that a file's `Precond` was made with.

    Returns:
        The network, the image size in pixels, the image channels and the number of classes.

    Raises:
        CheckpointError: Arguments are missing, or such that the network is none of ours.
    """
    given = dict(init_kwargs)
    for key, usual in _FIXED.items():
        value = given.pop(key, usual)
        if (tuple(value) if isinstance(value, list) else value) != usual:
            raise CheckpointError(f"an EDM2 network with {key} = '{value}', not {usual}")
    for key in _UNUSED:
        given.pop(key, None)
    try:
        size, channels = int(given.pop("img_resolution")), int(given.pop("img_channels"))
        classes = int(given.pop("label_dim", 0))
        usual = Edm2()
        spec = Edm2(
            channels=int(given.pop("model_channels", 192)),
            channel_mult=tuple(map(int, given.pop("channel_mult", usual.channel_mult))),
            blocks=int(given.pop("num_blocks", usual.blocks)),
            attention=tuple(map(int, given.pop("attn_resolutions", usual.attention))),
            head_channels=int(given.pop("channels_per_head", usual.head_channels)),
            dropout=float(given.pop("dropout", 0.0)),
        )
    except KeyError as error:
        raise CheckpointError(f"an EDM2 network without {error.args[0]}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"an EDM2 network with senseless arguments: {error}") from None
    if given:
        raise CheckpointError(f"an EDM2 network with unknown arguments: {', '.join(given)}")
    return spec, size, channels, classes


def key_map(spec: Edm2, image_size: int, channels: int, num_classes: int) -> dict[str, str]:
    """Our weight names to NVIDIA's, one to one."""
    keys = skeleton(spec, image_size, channels, num_classes)
    return key_table(keys, _modules(spec, image_size), _LEAVES, _PARAMETERS)


def to_ours(
    state: Mapping[str, Tensor], spec: Edm2, image_size: int, channels: int, num_classes: int
) -> dict[str, Tensor]:
    """Renames NVIDIA's weights and brings them into our layout, in float32, without `logvar_*`.

    Raises:
        CheckpointError: Names or shapes are not those of `spec`.
    """
    table = key_map(spec, image_size, channels, num_classes)
    check_names((k for k in state if not k.startswith("logvar_")), table.values())
    found = {ours: state[theirs].float() for ours, theirs in table.items()}
    check_shapes(found, skeleton(spec, image_size, channels, num_classes))
    return {ours: _blocks(ours, tensor, spec) for ours, tensor in found.items()}


def to_theirs(
    state: Mapping[str, Tensor], spec: Edm2, image_size: int, channels: int, num_classes: int
) -> dict[str, Tensor]:
    """Renames our weights and brings them into NVIDIA's layout.

    Raises:
        CheckpointError: Names are not those of `spec`.
    """
    table = key_map(spec, image_size, channels, num_classes)
    check_names(state, table)
    return {theirs: _interleaved(ours, state[ours], spec) for ours, theirs in table.items()}


def _blocks(name: str, tensor: Tensor, spec: Edm2) -> Tensor:
    """(head, d, q k v) channels as (q k v, head, d)."""
    if ".attention.qkv." not in name:
        return tensor
    heads = tensor.shape[0] // 3 // spec.head_channels
    return tensor.reshape(heads, -1, 3, *tensor.shape[1:]).movedim(2, 0).reshape(tensor.shape)


def _interleaved(name: str, tensor: Tensor, spec: Edm2) -> Tensor:
    """(q k v, head, d) channels as (head, d, q k v)."""
    if ".attention.qkv." not in name:
        return tensor
    heads = tensor.shape[0] // 3 // spec.head_channels
    return tensor.reshape(3, heads, -1, *tensor.shape[1:]).movedim(0, 2).reshape(tensor.shape)


def _modules(spec: Edm2, image_size: int) -> dict[str, str]:
    """Paths of our modules to NVIDIA's."""
    sizes = [image_size >> level for level in range(len(spec.channel_mult))]
    names = {
        "": "unet",
        "embedding": "unet.emb_fourier",
        "embedding.noise": "unet.emb_noise",
        "embedding.label": "unet.emb_label",
        "stem": f"unet.enc.{sizes[0]}x{sizes[0]}_conv",
        "middle.0": f"unet.dec.{sizes[-1]}x{sizes[-1]}_in0",
        "middle.1": f"unet.dec.{sizes[-1]}x{sizes[-1]}_in1",
        "out_conv": "unet.out_conv",
    }
    for level, size in enumerate(sizes):
        names[f"encoder.{level}.down"] = f"unet.enc.{size}x{size}_down"
        names[f"decoder.{level}.up"] = f"unet.dec.{size}x{size}_up"
        for block in range(spec.blocks + 1):
            names[f"encoder.{level}.blocks.{block}"] = f"unet.enc.{size}x{size}_block{block}"
            names[f"decoder.{level}.blocks.{block}"] = f"unet.dec.{size}x{size}_block{block}"
    return names
