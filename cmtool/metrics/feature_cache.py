"""Results that took a network long, kept by all that they depend on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmtool.data.places import cache_dir
from cmtool.errors import DataError, Say, silent
from cmtool.metrics._npz import Npz, write

VERSION = 1
_KEY = "key"


class FeatureCache:
    """Arrays by a key of plain data: features, probabilities, or their statistics.

    The key tells all that the arrays depend on: the images' content or the model, its seeds and
    noise levels, `Extractor.facts`, the rounding. Another key is another file, so nothing in the
    cache is ever wrong, and it may be removed at any time. Several processes may use it at once.

    Args:
        folder: Where; None is `features` in the user's cache.
        say: Is told of entries that are damaged.
    """

    def __init__(self, folder: Path | None = None, say: Say = silent) -> None:
        self.folder = folder or cache_dir() / "features"
        self.say = say

    def path(self, key: Mapping[str, Any]) -> Path:
        """Where the arrays of a key are, or would be."""
        return self.folder / f"{hashlib.sha256(_text(key).encode()).hexdigest()[:32]}.npz"

    def load(self, key: Mapping[str, Any]) -> dict[str, NDArray[Any]] | None:
        """The arrays of a key by name, or None; a damaged entry is as none."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            npz = Npz(path)
            if str(npz.array(_KEY)) != _text(key):
                raise DataError("it has another key")
            return {name: npz.array(name) for name in npz.names if name != _KEY}
        except (DataError, KeyError):
            self.say(f"the cached features '{path}' are damaged; they are made again")
            return None

    def store(self, key: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keeps arrays, whole or not at all.

        Raises:
            DataError: They cannot be written.
        """
        write(self.path(key), {_KEY: np.array(_text(key)), **arrays})


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps({"version": VERSION, **key}, sort_keys=True)
