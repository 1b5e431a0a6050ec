"""What lies in a folder or zip of images, before anybody has decided on a size."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmtool import images
from cmtool.data._labels import of_folders, of_json, of_split
from cmtool.data._stores import open_store
from cmtool.data.folder import image_names
from cmtool.errors import DataError


@dataclass(frozen=True)
class Survey:
    """The image files of a folder, by their headers.

    Args:
        sizes: (width, height) -> number of files.
        grey: Whether none has colours.
        classes: Name -> number of files; empty if there are no classes.
        ignored: Files that are no images.
        broken: What is wrong with those that cannot be read.
    """

    sizes: dict[tuple[int, int], int]
    grey: bool
    classes: dict[str, int]
    ignored: int
    broken: tuple[str, ...]

    @property
    def ready(self) -> bool:
        """Whether they can be trained on as they are: all whole, square and of one size."""
        return not self.broken and len(self.sizes) == 1 and len(set(*self.sizes)) == 1


def survey(spec: str) -> Survey:
    """Looks at every header; a file that breaks off later is only found by reading it whole.

    Raises:
        DataError: There is no such folder or zip, or it holds no images or wrong labels.
    """
    store = open_store(Path(spec).expanduser(), spec)
    found = image_names(store)
    ignored = sum(not name.endswith("dataset.json") for name in store.names) - len(found)
    found = of_split(found, "train", store.where)
    sizes: Counter[tuple[int, int]] = Counter()
    broken, grey = [], True
    for name in found:
        try:
            width, height, without = images.peek(store.get(name), store.title(name))
        except DataError as problem:
            broken.append(problem.message)
            continue
        sizes[width, height] += 1
        grey &= without
    labels, classes = of_json(store, found) or of_folders(found)
    counts = [] if labels is None else np.bincount(labels, minlength=len(classes)).tolist()
    return Survey(
        dict(sizes), grey, dict(zip(classes, counts, strict=False)), ignored, tuple(broken)
    )
