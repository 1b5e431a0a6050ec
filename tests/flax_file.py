"""Writes msgpack as flax does, for the tests of its reader: the format, said a second time."""

import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def packed(value: Any) -> bytes:
    """A value in msgpack; tensors as flax's arrays, float32 unless they are something else."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return b"\xd3" + struct.pack(">q", value)
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str():
            return b"\xdb" + struct.pack(">I", len(value.encode())) + value.encode()
        case bytes():
            return b"\xc6" + struct.pack(">I", len(value)) + value
        case list() | tuple():
            return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(packed, value))
        case Mapping():
            pairs = b"".join(text(key) + packed(inner) for key, inner in value.items())
            return b"\xde" + struct.pack(">H", len(value)) + pairs
        case Tensor():
            dtype = str(value.dtype).removeprefix("torch.")
            content = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return extension(1, packed([list(value.shape), dtype, content]))
    raise TypeError(type(value))


def text(key: str) -> bytes:
    """A short text."""
    content = key.encode()
    return bytes([0xA0 + len(content)]) + content if len(content) < 32 else packed(key)


def extension(code: int, payload: bytes) -> bytes:
    """A value of a type of one's own."""
    return b"\xc9" + struct.pack(">Ib", len(payload), code) + payload


def nested(flat: Mapping[str, Tensor]) -> dict[str, Any]:
    """`A/B/kernel` to {"A": {"B": {"kernel": ...}}}."""
    tree: dict[str, Any] = {}
    for path, tensor in flat.items():
        *modules, leaf = path.split("/")
        inner = tree
        for module in modules:
            inner = inner.setdefault(module, {})
        inner[leaf] = tensor
    return tree


def training_state(params: dict[str, Any]) -> dict[str, Any]:
    """What the JAX code keeps of a run, around the averaged weights."""
    other = {"Conv_0": {"kernel": torch.zeros(1, 1, 1, 1)}}
    return {
        "step": 800_000,
        "lr": 4e-4,
        "ema_rate": 0.9999,
        "params": other,
        "params_ema": params,
        "model_state": {},
        "opt_state": {"0": {"count": torch.tensor(3, dtype=torch.int32), "mu": other}, "1": {}},
        "rng_state": torch.tensor([0, 7], dtype=torch.int64),
    }
