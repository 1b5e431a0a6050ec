"""Reads safetensors files: a header of names, types, shapes and texts in JSON, then plain numbers.

Nothing in such a file is a program, but the header may claim anything. What the safetensors package
leaves open is checked before it sees the file: the header's size, doubled names, and what JSON is.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cmtool.errors import CheckpointError

LARGEST_HEADER = 16 * 2**20
"""Bytes; the largest published model of this field needs 100 kB."""
TEXTS = "__metadata__"


def is_safetensors(start: bytes) -> bool:
    """Whether a file that starts so (16 bytes) may be one."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LARGEST_HEADER


def read_texts(path: Path) -> dict[str, str]:
    """The texts in a file's header, by name.

    Raises:
        CheckpointError: The file is damaged.
    """
    texts: dict[str, str] = _header(path)[TEXTS]
    return texts


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU.

    Raises:
        CheckpointError: The file is damaged.
    """
    _header(path)
    try:
        return load_file(path)
    # Types that this torch does not know are a KeyError, and so on.
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(path, str(error)) from None


def _header(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(LARGEST_HEADER, size - 8):
                raise _damaged(path, f"a header of {length:,} bytes in a file of {size:,}")
            text = file.read(length).decode()
        header = json.loads(text, object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    texts = header.setdefault(TEXTS, {}) if isinstance(header, dict) else None
    if not isinstance(texts, dict) or any(not isinstance(text, str) for text in texts.values()):
        raise _damaged(path, "the header is no dictionary of tensors and texts")
    found: dict[str, Any] = header
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole safetensors file: {reason}", "fetch it again")
