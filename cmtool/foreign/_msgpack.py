"""Reads msgpack as flax writes it: nested dictionaries of numbers, texts and arrays.

A file is data, not a program, but it may lie about its lengths. So nothing is allocated for what a
length claims: every count is held against the bytes that are left, values and nesting are limited,
and an array stays a view of the file until it is asked for.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cmtool.errors import CheckpointError, foreign_name

DEPTH = 32
"""Most containers inside each other."""
VALUES = 200_000
"""Most values in a file; published ones hold a few thousand."""
CHUNKED = "__msgpack_chunked_array__"

_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    **{0xCC + i: code for i, code in enumerate((">B", ">H", ">I", ">Q"))},
    **{0xD0 + i: code for i, code in enumerate((">b", ">h", ">i", ">q"))},
}
# First byte of a value to the width of the length that follows it.
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_DICTS = {0xDE: 2, 0xDF: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_ARRAY_TYPES = (1, 3)  # flax: an array, and a numpy scalar, which is written the same way.
_COMPLEX = 2


@dataclass(frozen=True)
class Array:
    """An array that is still in the file.

    Args:
        shape: Its shape.
        dtype: numpy's name of its type.
        parts: Its bytes, row-major, in one or more pieces.
    """

    shape: tuple[int, ...]
    dtype: str
    parts: tuple[memoryview, ...]

    def tensor(self) -> Tensor:
        """A copy of its own.

        Raises:
            CheckpointError: The bytes are not as many as the shape needs, or no floating point.
        """
        if self.dtype not in _DTYPES:
            raise CheckpointError(
                f"an array of type '{foreign_name(self.dtype, 20)}', not floating point"
            )
        dtype = _DTYPES[self.dtype]
        size = sum(len(part) for part in self.parts)
        if not size or math.prod(self.shape) * dtype.itemsize != size:
            raise CheckpointError(f"an array of shape {self.shape} has {size:,} bytes")
        return torch.frombuffer(bytearray().join(self.parts), dtype=dtype).reshape(self.shape)


def unpack(content: memoryview) -> Any:
    """The one value in a file: None, bool, numbers, str, memoryview, list, dict with str keys and
    `Array`.

    Raises:
        CheckpointError: It is damaged, holds other things, or is out of all proportion.
    """
    reader = _Reader(content)
    value = reader.value(0)
    if reader.at != len(content):
        raise CheckpointError(f"{len(content) - reader.at:,} bytes too many")
    return value


def looks_like(start: bytes) -> bool:
    """Whether a file that starts so (16 bytes) may be a msgpack dictionary with text as keys."""
    if start[:1] in (b"\xde", b"\xdf"):
        start = start[2 if start[0] == 0xDE else 4 :]
    elif not (start and 0x81 <= start[0] <= 0x8F):
        return False
    return len(start) > 2 and 0xA1 <= start[1] <= 0xBF and chr(start[2]).isidentifier()


class _Reader:
    """Goes through the bytes once."""

    def __init__(self, content: memoryview) -> None:
        self.content = content
        self.at = 0
        self.values = 0

    def value(self, depth: int) -> Any:
        """The next value, at most `DEPTH` containers deep."""
        self.values += 1
        if depth > DEPTH or self.values > VALUES:
            raise CheckpointError(f"more than {DEPTH} levels or {VALUES:,} values")
        head = self.take(1)[0]
        if head < 0x80 or head >= 0xE0:
            return head if head < 0x80 else head - 0x100
        if head < 0xC0:  # A short dictionary, list or text, its length in the same byte.
            kind: Callable[[int, int], Any] = self.text
            if head < 0xA0:
                kind = self.dictionary if head < 0x90 else self.list
            return kind(head & (0x1F if head >= 0xA0 else 0x0F), depth)
        if head in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[head]
        if head in _NUMBERS:
            return struct.unpack(_NUMBERS[head], self.take(struct.calcsize(_NUMBERS[head])))[0]
        if 0xD4 <= head <= 0xD8:
            return self.extension(1 << (head - 0xD4), depth)
        for widths, read in (
            (_TEXTS, self.text),
            (_BYTES, self.bytes),
            (_LISTS, self.list),
            (_DICTS, self.dictionary),
            (_EXTENSIONS, self.extension),
        ):
            if head in widths:
                return read(int.from_bytes(self.take(widths[head]), "big"), depth)
        raise CheckpointError(f"byte 0x{head:02x} where a value should start")

    def take(self, size: int) -> memoryview:
        """The next bytes."""
        left = len(self.content) - self.at
        if size > left:
            raise CheckpointError(f"a length of {size:,} where {left:,} bytes are left")
        self.at += size
        return self.content[self.at - size : self.at]

    def bytes(self, size: int, depth: int) -> memoryview:
        """A view of the file."""
        return self.take(size)

    def text(self, size: int, depth: int) -> str:
        """UTF-8."""
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError:
            raise CheckpointError("a text that is not UTF-8") from None

    def list(self, size: int, depth: int) -> list[Any]:
        """Values in a row, each of one byte or more."""
        self.claim(size)
        return [self.value(depth + 1) for _ in range(size)]

    def dictionary(self, size: int, depth: int) -> dict[str, Any]:
        """Values by name; a chunked array is one value."""
        self.claim(2 * size)
        found: dict[str, Any] = {}
        for _ in range(size):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found:
                shown = foreign_name(key) if isinstance(key, str) else f"a {type(key).__name__}"
                raise CheckpointError(f"a key that is no text, or is there twice: {shown}")
            found[key] = self.value(depth + 1)
        return found

    def extension(self, size: int, depth: int) -> Any:
        """An array, written as msgpack of (shape, type, bytes) inside; complex numbers as None."""
        code = struct.unpack("b", self.take(1))[0]
        payload = self.take(size)
        if code == _COMPLEX:
            return None
        if code not in _ARRAY_TYPES:
            raise CheckpointError(f"a value of the unknown type {code}")
        inner = _Reader(payload)
        inner.values = self.values
        fields = inner.value(depth + 1)
        self.values = inner.values
        if inner.at != size or not isinstance(fields, list) or len(fields) != 3:
            raise CheckpointError("an array that is not (shape, type, bytes)")
        shape, dtype, content = fields
        if not (isinstance(dtype, str) and isinstance(content, memoryview)):
            raise CheckpointError("an array that is not (shape, type, bytes)")
        return Array(_shape(shape), dtype, (content,))

    def claim(self, size: int) -> None:
        """Refuses more values than there are bytes for."""
        if size > min(len(self.content) - self.at, VALUES):
            raise CheckpointError(
                f"{size:,} values where {len(self.content) - self.at:,} bytes are"
            )


def joined(value: Any) -> Any:
    """`value`, or the array that flax has written in chunks, since it was above a gigabyte.

    Raises:
        CheckpointError: The chunks are no such array.
    """
    if not isinstance(value, dict) or CHUNKED not in value:
        return value
    chunks = _in_order(value.get("chunks"))
    first = chunks[0] if chunks else None
    if not isinstance(first, Array) or any(
        not isinstance(c, Array) or c.dtype != first.dtype for c in chunks
    ):
        raise CheckpointError("an array in chunks that are no arrays of one type")
    parts = tuple(part for chunk in chunks for part in chunk.parts)
    return Array(_shape(_in_order(value.get("shape"))), first.dtype, parts)


def _in_order(value: Any) -> list[Any]:
    """A list, which newer versions of flax write as a dictionary "0", "1", ..."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else []
    if set(value) != {str(i) for i in range(len(value))}:
        raise CheckpointError("an array in chunks that are not numbered")
    return [value[str(i)] for i in range(len(value))]


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 8:
        raise CheckpointError("an array whose shape is no short list of numbers")
    if any(type(n) is not int or n < 0 for n in value):
        raise CheckpointError("an array whose shape is no short list of numbers")
    return tuple(value)
