"""Reads CIFAR-10's python pickles without running anything.

A pickle is a program that may call any function it can name. Here it can name the two classes
below, which only keep what they are given: not even numpy is within its reach. Everything else is
refused.
"""

import pickle
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmtool.errors import DataError


class _Dtype:
    """Stands in for `numpy.dtype`."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment: of no meaning for single bytes."""


class _Array:
    """Stands in for `numpy.ndarray`: what it would be built from."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it asks for '{module}.{name}', which no CIFAR-10 file needs"
            )
        return _ALLOWED[module, name]


def cifar_batch(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (N, 3072) uint8 and labels (N,) int64 of one `data_batch_*` or `test_batch`.

    Args:
        content: The file's bytes.
        name: What to call it in an error.

    Raises:
        DataError: It is damaged, or holds or asks for anything else than such a batch.
    """
    try:
        batch = _Unpickler(BytesIO(content), encoding="bytes").load()
        if not isinstance(batch, dict):
            raise pickle.UnpicklingError("it is not a dictionary")
        fields = {
            key.encode() if isinstance(key, str) else key: value for key, value in batch.items()
        }
        return _pixels(fields.get(b"data")), _labels(fields.get(b"labels"))
    # Bytes chosen by an enemy may make the reader fail in any way; all that matters is that it ends
    # here.
    except Exception as problem:
        raise DataError(
            f"'{name}' is not a CIFAR-10 batch: {str(problem) or type(problem).__name__}"
        ) from problem


def _pixels(array: Any) -> NDArray[np.uint8]:
    if not isinstance(array, _Array) or not isinstance(array.state, tuple) or len(array.state) != 5:
        raise pickle.UnpicklingError("it has no pixel array 'data'")
    _, shape, dtype, column_major, content = array.state
    if (
        not isinstance(dtype, _Dtype)
        or dtype.code not in ("u1", "|u1", b"u1", b"|u1")
        or column_major
    ):
        raise pickle.UnpicklingError("its pixels are not plain bytes")
    if (
        not isinstance(shape, tuple)
        or len(shape) != 2
        or shape[1] != 3072
        or not isinstance(content, bytes)
    ):
        raise pickle.UnpicklingError("its pixels are not rows of 3072 bytes")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _labels(labels: Any) -> NDArray[np.int64]:
    if not isinstance(labels, list) or not all(
        type(label) is int and 0 <= label < 10 for label in labels
    ):
        raise pickle.UnpicklingError("its labels are not a list of numbers 0 .. 9")
    return np.array(labels, dtype=np.int64)
