"""Reads the files of `torch.save` and `pickle.dump` as data, without running anything.

What they name stays words (see `cmtool.pickled`); tensors are rebuilt here, from bytes that are
really in the file. Not here: what the data mean.
"""

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmtool.errors import CheckpointError
from cmtool.pickled import MAX_NAME, MAX_STEPS, Call, Name, Reference, Refused, read

_NAMES = {
    "collections.OrderedDict",
    "dnnlib.util.EasyDict",
    "torch_utils.persistence._reconstruct_persistent_obj",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
    "torch.Size",
    # Scalars, arrays and sets: words that nobody here asks for.
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.numeric._frombuffer",
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
    "builtins.set",
    "__builtin__.set",
}
_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
}
# What `torch.save` begins with when it makes no zip archive.
_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_AXES = 8
_MAX_WEIGHTS = 10_000
# A single storage takes about thirty.
_BLOB_STEPS = 200
HINT = "nothing in it was run; fetch the file again, or from its publisher"


@dataclass
class TorchFile:
    """What a file holds.

    Args:
        path: The file, for messages.
        content: The value in it, as `cmtool.pickled.read` gives it.
        size: How many bytes it has.
    """

    path: Path
    content: Any
    size: int
    _storages: Mapping[str, Tensor]
    _blobs: dict[int, Tensor] = field(default_factory=dict)

    def tensor(self, value: Any) -> Tensor | None:
        """The tensor or parameter that a value stands for; None if it stands for none.

        Raises:
            CheckpointError: It does not lie inside of its storage.
        """
        if isinstance(value, Call) and value.path == "torch._utils._rebuild_parameter":
            value = value.args[0] if value.args else None
        if not isinstance(value, Call) or value.path != "torch._utils._rebuild_tensor_v2":
            return None
        try:
            return self._rebuild(*value.args[:4])
        except (Refused, TypeError, ValueError) as problem:
            raise _refusal(self.path, problem) from None

    def state(self, values: Any) -> dict[str, Tensor] | None:
        """A dictionary of tensors by name; None if the value is something else.

        Raises:
            CheckpointError: The tensors claim more numbers than the file has.
        """
        if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
            return None
        if len(values) > _MAX_WEIGHTS:
            raise _refusal(self.path, Refused(f"it has {len(values):,} weights"))
        if not all(name.isprintable() and len(name) <= MAX_NAME for name in values):
            raise _refusal(self.path, Refused("it has a weight with no name to show"))
        state = {name: self.tensor(value) for name, value in values.items()}
        found = {name: tensor for name, tensor in state.items() if tensor is not None}
        # Tensors may share a storage, so that each is small enough and all together are not.
        claimed = sum(tensor.numel() for tensor in found.values())
        if claimed > self.size:
            raise CheckpointError(
                f"'{self.path}' claims {claimed:,} numbers in {self.size:,} bytes", HINT
            )
        return found if len(found) == len(state) else None

    def _rebuild(self, storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
        flat = self._storage(storage)
        numbers = len(flat)
        if (
            not isinstance(size, tuple)
            or not isinstance(stride, tuple)
            or not len(size) == len(stride) <= _MAX_AXES
            or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
        ):
            raise Refused("it has a tensor without a shape")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        inside = last < numbers and all(step <= numbers for step in stride)
        if 0 in size or math.prod(size) > numbers or not inside:
            raise Refused(f"it claims a tensor of shape {size} in {numbers:,} numbers")
        return flat.as_strided(size, stride, offset)

    def _storage(self, value: Any) -> Tensor:
        if isinstance(value, Reference):
            key, _, _ = _reference(value)
            if key not in self._storages:
                raise Refused(f"it has no storage '{ascii(key)[1:-1]}'")
            return self._storages[key]
        if not isinstance(value, Call) or value.path != "torch.storage._load_from_bytes":
            raise Refused("it has a tensor without a storage")
        (content,) = value.args
        # By the bytes, which many calls may share.
        if id(content) not in self._blobs:
            inner, storages = _old_format(content, _BLOB_STEPS)
            if not isinstance(inner, Reference):
                raise Refused("it has a storage that is none")
            self._blobs[id(content)] = storages[_reference(inner)[0]]
        return self._blobs[id(content)]


def open_file(path: Path) -> TorchFile:
    """Opens a pickle, or what `torch.save` made.

    Raises:
        CheckpointError: It is damaged, or asks for anything that data does not need.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(1) == b"P":
                return TorchFile(path, *_zip(path, size))
        content = path.read_bytes()
        first, _ = read(content, _allowed)
        if first == _MAGIC and type(first) is int:
            value, storages = _old_format(content, MAX_STEPS)
            return TorchFile(path, value, size, storages)
        return TorchFile(path, first, size, {})
    except Refused as problem:
        raise _refusal(path, problem) from None
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}") from None


def _refusal(path: Path, problem: Exception) -> CheckpointError:
    reason = str(problem) if isinstance(problem, Refused) else "it is damaged"
    return CheckpointError(f"'{path}' is not opened: {reason}", HINT)


def _allowed(name: str) -> bool:
    # Such as torch.nn.modules.container.ModuleDict.
    layer = name.startswith("torch.nn.modules.") and name.count(".") == 4
    return layer or name in _NAMES or name in _STORAGES


def _reference(value: Reference) -> tuple[str, torch.dtype, int]:
    """Key, type and length of a storage."""
    match value.key:
        case ("storage", Name(kind), str() as key, str(), int() as numbers, *view):
            # Files of before torch 0.4 may name a part of another storage there.
            if kind in _STORAGES and numbers >= 0 and view in ([], [None]):
                return key, _STORAGES[kind], numbers
    raise Refused("it refers to something that is no storage")


def _flat(data: bytearray, kind: torch.dtype) -> Tensor:
    if not data:  # Which torch.frombuffer refuses.
        return torch.empty(0, dtype=kind)
    return torch.frombuffer(data, dtype=kind)


def _old_format(content: Any, steps: int) -> tuple[Any, dict[str, Tensor]]:
    """A value of `torch.save`'s older format and its storages.

    Five pickles: a magic number, a version, the machine, the value, the storages' keys; then each
    storage's length and numbers.
    """
    if not isinstance(content, bytes | memoryview):
        raise Refused("it has a storage that is no bytes")
    references: list[Reference] = []
    at, parts = 0, []
    for _ in range(5):
        part, at = read(content, _allowed, references=references, start=at, steps=steps)
        parts.append(part)
    magic, _, machine, value, keys = parts
    if type(magic) is not int or magic != _MAGIC or not isinstance(keys, list):
        raise Refused("it has a part that torch.save did not write")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Refused("it was written by a machine of another byte order")
    known = {key: (kind, numbers) for key, kind, numbers in map(_reference, references)}
    storages: dict[str, Tensor] = {}
    for key in keys:
        if not isinstance(key, str) or key not in known or key in storages:
            raise Refused("it lists a storage that it does not use")
        kind, numbers = known[key]
        start, end = at + 8, at + 8 + numbers * kind.itemsize
        stored = int.from_bytes(content[at:start], "little", signed=True)
        if end > len(content) or stored != numbers:
            raise Refused(f"it claims a storage of {numbers:,} numbers and ends before them")
        storages[key] = _flat(bytearray(content[start:end]), kind)
        at = end
    if len(storages) != len(known):
        raise Refused("it uses a storage that it does not list")
    return value, storages


def _zip(path: Path, size: int) -> tuple[Any, int, dict[str, Tensor]]:
    """The value, the size and the storages of `torch.save`'s archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive, size)
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise Refused(f"it has {len(pickles)} files 'data.pkl'")
            folder = pickles[0].removesuffix("data.pkl")
            order = f"{folder}byteorder"
            if order in entries and archive.read(order) != b"little":
                raise Refused("it was written by a machine of another byte order")
            references: list[Reference] = []
            value, _ = read(archive.read(pickles[0]), _allowed, references=references)
            storages: dict[str, Tensor] = {}
            for key, kind, numbers in map(_reference, references):
                if key not in storages:
                    entry = entries.get(f"{folder}data/{key}")
                    if entry is None or entry.file_size != numbers * kind.itemsize:
                        shown = ascii(key)[1:-1]
                        raise Refused(f"it claims {numbers:,} numbers for its storage '{shown}'")
                    storages[key] = _flat(bytearray(archive.read(entry)), kind)
                elif storages[key].dtype != kind or len(storages[key]) != numbers:
                    raise Refused(f"it has two sorts of storage '{ascii(key)[1:-1]}'")
            return value, size, storages
    except Refused:
        raise
    # A damaged archive makes zipfile fail in many ways; all that matters is that it ends here.
    except Exception as error:
        raise Refused(f"it is damaged: {error}") from None


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name: plain, stored as they are, and no more than fit into it."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name, shown = entry.filename, ascii(entry.filename)[1:-1]
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise Refused(f"it has a file '{shown}' outside of itself")
        if name in entries:
            raise Refused(f"it has two files '{shown}'")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Refused(f"its file '{shown}' is compressed or encrypted")
        if (entry.external_attr >> 16) & 0o170000 not in (0, 0o100000):
            raise Refused(f"its file '{shown}' is a link or a folder")
        entries[name] = entry
    claimed = sum(entry.file_size for entry in entries.values())
    if claimed > size:
        raise Refused(f"it claims {claimed:,} bytes and has {size:,}")
    return entries
