"""Named files in a folder, a zip or an lmdb, read one by one and never unpacked to the disk."""

import importlib
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmtool.errors import DataError

MAX_FILE_BYTES = 512 * 2**20
"""No image file is larger; a member of a zip that claims more is refused before it is unpacked."""
READ_ERRORS = (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError)
"""What damage in a zip, or a compression that Python does not know, raises."""
ENCRYPTED = 1
"""Bit of a zip member's flags."""


@dataclass(frozen=True)
class Store:
    """Files by name.

    Args:
        where: The folder or archive as the user typed it.
        names: Relative names with `/`, sorted, hidden files left out.
        get: Name -> the file's path, or its contents.
        all_images: Every entry is an image, whatever its name.
    """

    where: str
    names: tuple[str, ...]
    get: Callable[[str], Path | bytes]
    all_images: bool = False

    def title(self, name: str) -> str:
        """What to call a file in a message."""
        return f"{self.where.rstrip('/')}/{name}"


def open_store(path: Path, where: str) -> Store:
    """The store at a path that exists.

    Raises:
        DataError: It is neither a folder, nor an lmdb, nor a zip.
    """
    if (path / "data.mdb").is_file():
        return lmdb_store(path, where)
    if not os.access(path, os.R_OK):
        raise DataError(f"'{where}' may not be read", "check its permissions")
    if path.is_dir():
        return folder_store(path, where)
    if zipfile.is_zipfile(path):
        return zip_store(path, where)
    if path.suffix.lower() == ".zip":
        raise DataError(f"'{where}' is damaged: it is no zip file", "make or copy it again")
    raise DataError(
        f"'{where}' is neither a folder nor a zip of images",
        "unpack it, or pass the folder that holds the images",
    )


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _unreadable(problem: OSError) -> None:
    """Without it, `os.walk` would silently leave out a folder that may not be read."""
    raise problem


def folder_store(root: Path, where: str) -> Store:
    """All files below a folder, linked folders too (each once)."""
    names: list[str] = []
    seen: set[str] = set()
    for folder, below, files in os.walk(root, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        names += [(Path(folder) / file).relative_to(root).as_posix() for file in files]

    def get(name: str) -> Path:
        path = root / name
        try:
            size = path.stat().st_size
        except OSError as problem:
            raise DataError(
                f"cannot read '{where.rstrip('/')}/{name}': {problem.strerror}"
            ) from problem
        if size > MAX_FILE_BYTES:
            raise DataError(f"'{where.rstrip('/')}/{name}' is larger than {MAX_FILE_BYTES:,} bytes")
        return path

    return Store(where, tuple(sorted(filter(_visible, names))), get)


def zip_store(path: Path, where: str) -> Store:
    """All files in a zip."""
    try:
        archive = zipfile.ZipFile(path)
        members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
    except READ_ERRORS as problem:
        raise DataError(f"cannot read the zip '{where}': {problem}") from problem
    if any(member.flag_bits & ENCRYPTED for member in members.values()):
        raise DataError(f"the zip '{where}' is encrypted", "unpack it, and pass the folder")

    def get(name: str) -> bytes:
        title = f"{where}/{name}"
        if members[name].file_size > MAX_FILE_BYTES:
            raise DataError(f"'{title}' is larger than {MAX_FILE_BYTES:,} bytes")
        try:
            # zipfile hands out no more bytes than the size just checked, whatever the compressed
            # data say.
            return archive.read(members[name])
        except READ_ERRORS as problem:
            raise DataError(f"cannot read '{title}': {problem}") from problem

    return Store(where, tuple(sorted(filter(_visible, members))), get)


def lmdb_store(path: Path, where: str) -> Store:
    """All values of an lmdb, as LSUN is published: keys are the names, every value is an image."""
    try:
        lmdb = importlib.import_module("lmdb")
    except ImportError:
        raise DataError(
            f"'{where}' is an lmdb, which needs one more package", "pip install 'cmtool[lmdb]'"
        ) from None
    try:
        environment = lmdb.open(
            str(path), readonly=True, lock=False, readahead=False, max_readers=256
        )
        with environment.begin() as reading:
            names = [
                bytes(key).decode("latin1")
                for key in reading.cursor().iternext(keys=True, values=False)
            ]
    except lmdb.Error as problem:
        raise DataError(f"cannot read the lmdb '{where}': {problem}") from problem

    def get(name: str) -> bytes:
        try:
            with environment.begin() as reading:
                return bytes(reading.get(name.encode("latin1")) or b"")
        except lmdb.Error as problem:
            raise DataError(f"cannot read '{where}/{name}': {problem}") from problem

    return Store(where, tuple(sorted(names)), get, all_images=True)
