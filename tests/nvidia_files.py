"""Writes files in NVIDIA's layouts, good and bad ones: pickles put together from their parts."""

import io
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmtool import pickled
from cmtool.foreign import nvidia
from cmtool.foreign._persistence import module
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.pickled import Call, Name, Reference

RECONSTRUCT = "torch_utils.persistence._reconstruct_persistent_obj"
MAGIC = 0x1950A86A20F9469CFC6C


class Raw(bytes):
    """Instructions that leave one value on the stack, to be taken as they are."""


def pickle_of(value: Any) -> bytes:
    """A pickle of values as `cmtool.pickled.read` gives them."""
    return b"\x80\x04" + code(value) + b"."


def code(value: Any) -> bytes:
    """Instructions that make a value."""
    match value:
        case Raw():
            return value
        case None:
            return b"N"
        case True | False:
            return b"\x88" if value else b"\x89"
        case int():
            return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        case bytes() | memoryview():
            return b"B" + struct.pack("<I", len(value)) + value
        case list():
            return b"](" + b"".join(map(code, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(code, value)) + b"t"
        case set():
            return b"\x8f(" + b"".join(map(code, value)) + b"\x90"
        case dict():
            return b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u"
        case Name():
            return b"".join(map(code, value.path.rsplit(".", 1))) + b"\x93"
        case Call():
            build = b"" if value.state is None else code(value.state) + b"b"
            return code(Name(value.path)) + code(value.args) + b"R" + build
        case Reference():
            return code(value.key) + b"Q"
    raise TypeError(type(value))


def call(path: str, *args: Any) -> Call:
    """A call of a name."""
    return Call(path, args)


def blob(tensor: Tensor, **parts: Any) -> bytes:
    """A storage in torch's older format; `parts` replaces its pickles or its length."""
    kinds = {torch.float32: "Float", torch.float16: "Half"}
    numbers = parts.get("numbers", tensor.numel())
    key = ("storage", Name(f"torch.{kinds[tensor.dtype]}Storage"), "0", "cpu", numbers, None)
    usual = {
        "magic": MAGIC,
        "version": 1001,
        "machine": {"protocol_version": 1001, "little_endian": True, "type_sizes": {}},
        "value": Reference(key),
        "keys": ["0"],
    }
    pickles = b"".join(pickle_of(parts.get(name, value)) for name, value in usual.items())
    return pickles + struct.pack("<q", numbers) + tensor.numpy().tobytes()


def parameter(tensor: Tensor, **parts: Any) -> Call:
    """A tensor as it is pickled; `parts` replaces its size, stride, offset or storage."""
    storage = parts.get("storage") or call("torch.storage._load_from_bytes", blob(tensor))
    size, stride = parts.get("size", tuple(tensor.shape)), parts.get("stride", tensor.stride())
    hooks = call("collections.OrderedDict")
    rebuild = "torch._utils._rebuild_tensor_v2"
    return call(rebuild, storage, parts.get("offset", 0), size, stride, False, hooks)


def module_of(kind: str, weights: Mapping[str, Any], **fields: Any) -> Call:
    """A module with weights by dotted name, with the modules that these names need."""
    here = {name: value for name, value in weights.items() if "." not in name}
    children: dict[str, dict[str, Any]] = {}
    for name, value in weights.items():
        first, dot, rest = name.partition(".")
        if dot:
            children.setdefault(first, {})[rest] = value
    made = fields.pop("_modules", {})
    inside = {n: made.get(n) or module_of("Layer", below) for n, below in children.items()}
    state = {"_parameters": here, "_buffers": {}, "_modules": inside, **fields}
    source = "import os\nos.system('touch canary')\n"
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": kind}
    return call(RECONSTRUCT, {**meta, "state": state})


SMALL = Ddpmpp(channels=8, channel_mult=(1,), blocks=1, attention=(), augment_dim=2)
SIZE, CHANNELS, CLASSES = 8, 1, 10


def small_weights(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights of the smallest DDPM++ under NVIDIA's names."""
    torch.manual_seed(0)
    network = SMALL.build(SIZE, CHANNELS, CLASSES)
    theirs = nvidia.to_theirs(network.state_dict(), SMALL, SIZE, CHANNELS, CLASSES)
    return {name: tensor.to(dtype) for name, tensor in theirs.items()}


def small(
    weights: Mapping[str, Any] | None = None,
    kind: str = "EDMPrecond",
    kwargs: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Call:
    """A whole model: `small_weights`, or those given, in a preconditioner."""
    if weights is None:
        weights = {name: parameter(tensor) for name, tensor in small_weights().items()}
    made_with = {
        "model_channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
        "augment_dim": 2,
        **(kwargs or {}),
    }
    inner = {name.removeprefix("model."): value for name, value in weights.items()}
    network = module_of("SongUNet", inner, _init_args=(), _init_kwargs=made_with)
    geometry = {"img_resolution": SIZE, "img_channels": CHANNELS, "label_dim": CLASSES}
    usual = {**geometry, "sigma_data": 0.5, "sigma_min": 0, "sigma_max": float("inf")}
    top = module_of(kind, {}, **{**usual, **fields})
    top.args[0]["state"]["_modules"] = {"model": network}
    return top


def snapshot(model: Any) -> dict[str, Any]:
    """What NVIDIA's training saves."""
    return {"ema": model, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {}}


def archive(
    value: Any, storages: Iterable[tuple[str, Tensor]] = (), name: str = "archive/data.pkl"
) -> bytes:
    """What `torch.save` makes of a value whose storages are `Reference`s."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr(name, value if isinstance(value, bytes) else pickle_of(value))
        file.writestr("archive/byteorder", "little")
        for key, tensor in storages:
            file.writestr(f"archive/data/{key}", tensor.numpy().tobytes())
    return made.getvalue()


def reference(key: str, numbers: int, kind: str = "Float") -> Reference:
    """A storage inside of such an archive."""
    return Reference(("storage", Name(f"torch.{kind}Storage"), key, "cpu", numbers))


def training_state() -> bytes:
    """A `training-state-*.pt`: the network beside the optimizer's state."""
    weights = small_weights()
    tensors = {
        name: parameter(tensor, storage=reference(str(i), tensor.numel()))
        for i, (name, tensor) in enumerate(weights.items())
    }
    value = {"net": small(tensors), "optimizer_state": {"state": {}, "param_groups": []}}
    return archive(value, ((str(i), t) for i, t in enumerate(weights.values())))


def changed(file: Path, **fields: Any) -> bytes:
    """A golden pickle, its model's attributes replaced."""
    value, _ = pickled.read(file.read_bytes(), lambda name: True)
    root = module(value["ema"])
    assert root is not None
    root.fields.update(fields)
    return pickle_of(value)
