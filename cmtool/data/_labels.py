"""From file names to classes: sub-folders, `train`/`test` folders, `dataset.json`."""

import json
from collections.abc import Callable, Sequence

import numpy as np

from cmtool.data._stores import Store
from cmtool.data.base import Labels
from cmtool.errors import DataError

_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
_JSON = "dataset.json"
_MAX_JSON_BYTES = 512 * 2**20
_MAX_CLASSES = 1_000_000

Classes = tuple[Labels | None, tuple[str, ...]]


def common_folder(names: Sequence[str]) -> str:
    """The longest folder, ending in `/`, that all names lie in; "" if there is none.

    Example:
        >>> common_folder(["photos/cat/1.png", "photos/dog/1.png"])
        'photos/'
    """
    shared = names[0].split("/")[:-1]
    for name in (min(names), max(names)):
        parts = name.split("/")[:-1]
        equal = [a == b for a, b in zip(shared, parts, strict=False)]
        shared = shared[: equal.index(False) if False in equal else len(equal)]
    return "".join(f"{part}/" for part in shared)


def of_split(names: Sequence[str], split: str, where: str) -> list[str]:
    """The images of a split.

    Folders `train` and `test` (or `val` ...) mark the splits if all images lie in such; else all
    images are `train`.

    Raises:
        DataError: There is no such split; a data set without such folders has only `train`.
    """
    above = common_folder(names)
    tops = {name[len(above) :].split("/")[0] if "/" in name[len(above) :] else "" for name in names}
    known = {folder: kind for kind, folders in _SPLITS.items() for folder in folders}
    kinds = {known.get(top.lower()) for top in tops}
    if "train" in kinds and None not in kinds:
        for folder in _SPLITS[split]:
            chosen = [name for name in names if name[len(above) :].lower().startswith(f"{folder}/")]
            if chosen:
                return chosen
    if split == "train":
        return list(names)
    raise DataError(
        f"'{where}' has no {split} split", "put the images into sub-folders 'train' and 'test'"
    )


def by_key(names: Sequence[str], key: Callable[[str], str]) -> Classes:
    """One class for each distinct key, in sorted order; no labels if there are fewer than two."""
    keys = [key(name) for name in names]
    classes = tuple(sorted(set(keys)))
    if len(classes) < 2 or "" in classes:
        return None, ()
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[name] for name in keys], dtype=np.int64), classes


def unlabelled(_: Sequence[str]) -> Classes:
    """No labels, whatever the names."""
    return None, ()


def of_folders(names: Sequence[str]) -> Classes:
    """Classes from the top-level folders, if there are two or more and no image lies outside."""
    skip = len(common_folder(names))
    return by_key(names, lambda name: name[skip:].partition("/")[0] if "/" in name[skip:] else "")


def of_json(store: Store, names: Sequence[str]) -> Classes | None:
    """Classes from `dataset.json`; None if there is no such file.

    It is {"labels": [[file name, whole number], ...]} as NVIDIA's tools write it, or
    {"labels": null} for images without classes.

    Raises:
        DataError: It is damaged, or an image has no label.
    """
    above = common_folder(names)
    parents = [above[: i + 1] for i, letter in enumerate(above) if letter == "/"]
    base = next((base for base in ["", *parents] if base + _JSON in store.names), None)
    if base is None:
        return None
    title = store.title(base + _JSON)
    pairs = _json_pairs(store, base + _JSON, title)
    if pairs is None:
        return None, ()
    table: dict[str, int] = {}
    for pair in pairs:
        if not (
            isinstance(pair, list)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and type(pair[1]) is int
        ):
            raise DataError(
                f"'{title}': a label must be [file name, whole number], got '{str(pair)[:60]}'"
            )
        if not 0 <= pair[1] < _MAX_CLASSES:
            raise DataError(
                f"'{title}': label {pair[1]} of '{pair[0]}' is not in 0 .. {_MAX_CLASSES - 1}"
            )
        table[pair[0].replace("\\", "/")] = pair[1]
    missing = [name for name in names if name[len(base) :] not in table]
    if missing:
        raise DataError(
            f"'{title}' has no label for '{missing[0]}' and {len(missing) - 1} other images"
        )
    labels = np.array([table[name[len(base) :]] for name in names], dtype=np.int64)
    return labels, tuple(str(i) for i in range(max(table.values()) + 1))


def _json_pairs(store: Store, name: str, title: str) -> list[object] | None:
    got = store.get(name)
    try:
        content = got if isinstance(got, bytes) else got.read_bytes()
        if len(content) > _MAX_JSON_BYTES:
            raise DataError(f"'{title}' is larger than {_MAX_JSON_BYTES:,} bytes")
        table = json.loads(content)
    except (ValueError, OSError, RecursionError) as problem:
        raise DataError(f"cannot read '{title}': {problem}") from problem
    pairs = table.get("labels") if isinstance(table, dict) else 0
    if pairs is not None and not isinstance(pairs, list):
        raise DataError(f"'{title}' must be {{\"labels\": [[file name, whole number], ...]}}")
    return pairs
