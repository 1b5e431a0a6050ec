"""Where data sets are: `--data-dir`, $CMTOOL_DATA, the user's cache; and the download into it."""

import hashlib
import os
import sys
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from cmtool.data.base import Say
from cmtool.errors import DataError
from cmtool.files import whole

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30


def cache_dir() -> Path:
    """$CMTOOL_CACHE, else the folder `cmtool` in the platform's cache folder. It need not exist."""
    chosen = os.environ.get("CMTOOL_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cmtool"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "cmtool"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmtool"


def roots(data_dir: Path | None) -> list[Path]:
    """The folders in which a data set of a known name is looked for, the most wanted first.

    Raises:
        DataError: `data_dir` is given and is no folder.
    """
    if data_dir is not None and not data_dir.expanduser().is_dir():
        raise DataError(
            f"--data-dir '{data_dir}' is not a folder", "the folder that holds the data sets"
        )
    chosen = [data_dir, os.environ.get("CMTOOL_DATA") or None, cache_dir()]
    return [Path(folder).expanduser() for folder in chosen if folder is not None]


def folders(data_dir: Path | None, names: Sequence[str]) -> list[Path]:
    """Every root's sub-folders of those names, then the root itself."""
    found = []
    for root in roots(data_dir):
        found += [root / above / name for name in names for above in ("", "data")] + [root]
    return found


def offline() -> bool:
    """Whether $CMTOOL_OFFLINE forbids downloads."""
    return os.environ.get("CMTOOL_OFFLINE", "").lower() not in ("", "0", "false", "no")


def download(url: str, path: Path, checksum: str, say: Say) -> None:
    """Fetches a file, telling of every tenth, and puts it at `path` only if its checksum is right.

    The checksum is an md5 or a sha256, as its length tells.

    Raises:
        DataError: No network, a wrong checksum, or a folder that cannot be written.
    """
    if offline():
        raise DataError("downloads are off (CMTOOL_OFFLINE)")
    kind = "md5" if len(checksum) == 32 else "sha256"
    try:
        with whole(path) as draft:
            found = _fetch(url, draft, kind, say)
            if found != checksum:
                raise DataError(
                    f"{url} came with {kind} {found}, not {checksum}",
                    "try again: the download may have been cut",
                )
    except (OSError, HTTPException, ValueError) as problem:
        raise DataError(f"{url} could not be downloaded: {problem}") from problem


def _fetch(url: str, draft: Path, kind: str, say: Say) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    done, told = 0, -1
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as reply, draft.open("wb") as file:
        total = int(reply.headers.get("Content-Length") or 0)
        while chunk := reply.read(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            tenth = 10 * done // total if total else done // (10 * _CHUNK)
            if tenth != told:
                of = f" of {total / 1e6:.1f}" if total else ""
                say(f"downloading {url}: {done / 1e6:.1f}{of} MB")
                told = tenth
    return digest.hexdigest()


def not_found(name: str, looked: Sequence[Path], put: str, reason: str) -> DataError:
    """The one error for a data set that is nowhere: the places looked at, and what to put there."""
    places = "\n".join(f"  {folder}" for folder in dict.fromkeys(looked))
    return DataError(f"data set '{name}' was not found and {reason}; looked in\n{places}", put)
