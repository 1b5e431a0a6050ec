"""Npz files: written whole or not at all, and read without believing what they claim."""

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmtool.data.base import memory_bytes
from cmtool.errors import DataError
from cmtool.files import whole, why

DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error)
"""What reading a damaged file raises."""
MEMORY_SHARE = 0.5
"""No array in a file may take more than this share of the machine's memory."""


def write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes an npz, whole or not at all; makes the folder.

    Raises:
        DataError: It cannot be written: a full disk, a folder that may not be written.
    """
    try:
        with whole(path) as draft, draft.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
    except OSError as problem:
        raise DataError(
            f"cannot write '{path}': {why(problem)}",
            "free space there, or choose another place for the cache: CMTOOL_CACHE=DIR",
        ) from None


class Npz:
    """The arrays of a file by name, each read when it is asked for.

    Raises:
        DataError: This is no npz; so do its methods when it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except DAMAGE as problem:
            raise self.damaged(problem) from None
        self.members = {m.filename.removesuffix(".npy"): m for m in members}
        self.names = tuple(self.members)

    def shape(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """What an array's header claims, before anything of that size is read."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.members[name]) as file:
                shape, _, dtype = _header(file)
        except DAMAGE as problem:
            raise self.damaged(problem) from None
        return shape, dtype

    def array(self, name: str) -> NDArray[Any]:
        """An array, its checksum checked."""
        shape, dtype = self.shape(name)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or size > MEMORY_SHARE * memory_bytes():
            raise DataError(f"'{name}' in '{self.path}' is no array that fits: {shape} {dtype}")
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.members[name]) as file:
                found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
                return found
        except DAMAGE as problem:
            raise self.damaged(problem) from None

    def mapped(self, name: str) -> NDArray[Any]:
        """An array that stays in the file until it is used, where it is stored as it is."""
        member = self.members[name]
        if member.compress_type != zipfile.ZIP_STORED:
            return self.array(name)
        try:
            with self.path.open("rb") as file:
                file.seek(member.header_offset + 26)
                file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
                shape, fortran, dtype = _header(file)
                order = "F" if fortran else "C"
                return np.memmap(self.path, dtype, "r", file.tell(), shape, order)  # type: ignore[call-overload, no-any-return]
        except DAMAGE as problem:
            raise self.damaged(problem) from None

    def damaged(self, problem: Exception) -> DataError:
        """The error for a file that cannot be read."""
        return DataError(f"'{self.path}' is no whole npz file: {problem}", "make or fetch it again")


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
