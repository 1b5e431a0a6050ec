"""Reads CIFAR-10's python pickles without running anything; see `cmtool.pickled`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmtool.errors import DataError
from cmtool.pickled import Call, Refused, read

_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_ALLOWED = (*_ARRAYS, "numpy.ndarray", "numpy.dtype")


def cifar_batch(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (N, 3072) uint8 and labels (N,) int64 of one `data_batch_*` or `test_batch`.

    Args:
        content: The file's bytes.
        name: What to call it in an error.

    Raises:
        DataError: It is damaged, or holds or asks for anything else than such a batch.
    """
    try:
        batch, _ = read(content, lambda path: path in _ALLOWED)
        if not isinstance(batch, dict):
            raise Refused("it is not a dictionary")
        fields = {
            key.encode() if isinstance(key, str) else key: value for key, value in batch.items()
        }
        return _pixels(fields.get(b"data")), _labels(fields.get(b"labels"))
    except Refused as problem:
        raise DataError(f"'{name}' is not a CIFAR-10 batch: {problem}") from None


def _pixels(array: Any) -> NDArray[np.uint8]:
    if not isinstance(array, Call) or array.path not in _ARRAYS:
        raise Refused("it has no pixel array 'data'")
    match array.state:
        case (_, shape, Call("numpy.dtype", ("u1" | "|u1" | b"u1" | b"|u1", *_)), False, content):
            pass
        case _:
            raise Refused("its pixels are not plain bytes")
    match shape:
        case (int() as rows, 3072):
            pass
        case _:
            raise Refused("its pixels are not rows of 3072 bytes")
    if not isinstance(content, bytes | memoryview) or len(content) != rows * 3072:
        raise Refused(f"its pixels are not {rows} rows of 3072 bytes")
    return np.frombuffer(content, dtype=np.uint8).reshape(rows, 3072)


def _labels(labels: Any) -> NDArray[np.int64]:
    if not isinstance(labels, list) or not all(
        type(label) is int and 0 <= label < 10 for label in labels
    ):
        raise Refused("its labels are not a list of numbers 0 .. 9")
    return np.array(labels, dtype=np.int64)
