"""What `cmtool eval` holds images against."""

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cmtool.data.base import ImageSet
from cmtool.data.catalog import open_data
from cmtool.data.folder import DEFAULT_CROP
from cmtool.errors import DataError, RecipeError, Say
from cmtool.metrics.features.base import Extractor, Vectors
from cmtool.metrics.frechet import Gaussian
from cmtool.metrics.protocols import Protocol
from cmtool.metrics.references import (
    Statistics,
    content_hash,
    is_statistics,
    open_images,
    open_statistics,
    write_statistics,
)
from cmtool.workflows._features import Progress, Vault, gather, vault_of
from cmtool.workflows._processes import Processes
from cmtool.workflows._subjects import Opened, Request, source_of

LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif")


@dataclass(frozen=True)
class Reference:
    """Images, statistics of features, or both.

    Args:
        name: As typed.
        record: All that it is, for the report.
        notes: What a reader of the figures must know of it.
        data: The images.
        content: Their hash.
        statistics: From a file.
    """

    name: str
    record: dict[str, Any]
    notes: tuple[str, ...] = ()
    data: ImageSet | None = None
    content: str = ""
    statistics: Statistics | None = None


@dataclass(frozen=True)
class Measured:
    """A reference in a feature space.

    Args:
        gaussian: None where no metric asks for it.
        rows: Features of its images (m, d), the same.
    """

    gaussian: Gaussian | None
    rows: Vectors | None


def reference_name(request: Request, models: Sequence[Opened]) -> str:
    """Which data the images are held against.

    Raises:
        RecipeError: That cannot be told.
    """
    if request.data is not None:
        return request.data
    names = {opened.model.recipe.data.name: opened.model.source for opened in models}
    if not models:
        raise RecipeError("--images needs a reference", "--data NAME|FOLDER|ZIP|NPZ")
    if len(names) > 1:
        told = ", ".join(f"{source}: {name}" for name, source in names.items())
        raise RecipeError(f"the models were trained on different data: {told}", "--data NAME")
    (name,) = names
    if name is None:
        raise RecipeError(
            f"{models[0].model.source} does not tell what it was trained on",
            "--data NAME|FOLDER|ZIP|NPZ",
        )
    return name


def open_set(path: str, request: Request, say: Say) -> ImageSet:
    """Images that lie somewhere as they are, for `--images`.

    Raises:
        DataError: They cannot be read, or have several sizes.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() == ".npz" and file.is_file():
        return open_images(file)
    return open_data(path, data_dir=request.data_dir, say=say)


def is_lossy(path: str) -> bool:
    """Whether a folder or zip holds images of a format that changes them."""
    file = Path(path).expanduser()
    names: Iterable[str] = ()
    if file.is_dir():
        names = (below.name for below in file.rglob("*"))
    elif zipfile.is_zipfile(file) and file.suffix.lower() != ".npz":
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    return any(name.lower().endswith(LOSSY) for name in names)


def open_reference(
    name: str, shape: tuple[int, int, int], models: Sequence[Opened], request: Request, say: Say
) -> Reference:
    """Opens a reference for images of a shape (C, H, W).

    Raises:
        DataError: It cannot be read, or its images cannot be compared with those.
    """
    path, notes = Path(name).expanduser(), list[str]()
    if path.is_file() and path.suffix in (".npz", ".pkl"):
        if is_statistics(path):
            found = open_statistics(path)
            say(f"reference {name}: statistics")
            facts = {**found.facts, "images": found.gaussian.n or None}
            if "features" not in facts and "mode" not in facts:
                notes.append(
                    f"{name} does not tell how its images were resized: the protocol must be theirs"
                )
            content = ""
            if found.images is not None:
                _check_shape(name, found.images, shape)
                content = content_hash(found.images)
            return Reference(name, facts, tuple(notes), found.images, content, found)
        data = open_images(path)
    else:
        data, notes = _open_data(name, shape, models, request, say)
    _check_shape(name, data, shape)
    if len(data) < 3:
        raise DataError(f"'{name}' has {len(data)} image(s), a reference needs three")
    say(f"reference {data.name}: {len(data):,} images")
    content = content_hash(data)
    record = {**data.facts, "name": data.name, "images": len(data), "sha256": content}
    notes += _of_classes(data, models)
    return Reference(name, record, tuple(notes), data, content)


def _check_shape(name: str, data: ImageSet, shape: tuple[int, int, int]) -> None:
    if data.image_shape != shape:
        theirs, ours = ("x".join(map(str, s)) for s in (data.image_shape, shape))
        raise DataError(
            f"the reference '{name}' has images of {theirs}, the measured ones are {ours} (CxHxW)",
            "--data with images like those",
        )


def _open_data(
    name: str, shape: tuple[int, int, int], models: Sequence[Opened], request: Request, say: Say
) -> tuple[ImageSet, list[str]]:
    """A data set, folder or zip brought to a shape, and what was done to it for that.

    A model's own training set is as the model saw it, which needs no word.
    """
    channels, size, _ = shape
    own = models[0].model.recipe.data if models else None
    opened = partial(open_data, name, data_dir=request.data_dir, image_size=size)
    if own is not None and name == own.name:
        broken = own.skip_broken
        return opened(channels=channels, crop=own.crop, skip_broken=broken, say=say), []
    notes, crop = [], "none"
    try:
        data = opened(crop=crop)
        # Of images that are decoded as needed some are looked at, from all over the set.
        data.images(np.linspace(0, len(data) - 1, 64).astype(np.int64))
    except DataError:
        crop = DEFAULT_CROP
        data = opened(crop=crop, say=say)
        notes.append(f"the reference was cut and resized to {size}x{size} ({crop})")
    if data.image_shape[0] != channels:
        done = "colours were made grey" if channels == 1 else "grey images were repeated to RGB"
        notes.append(f"the reference's {done}")
        data = opened(channels=channels, crop=crop)
    return data, notes


def _of_classes(data: ImageSet, models: Sequence[Opened]) -> list[str]:
    """Where the classes that are drawn are not those of the reference."""
    notes = []
    for opened in models:
        classes = opened.model.denoiser.num_classes
        if classes and data.num_classes and classes != data.num_classes:
            notes.append(
                f"{opened.path} knows {classes} classes, the reference has {data.num_classes}"
            )
        elif classes and data.labels is not None:
            shares = np.bincount(data.labels, minlength=classes) / len(data)
            if shares.max() > 1.5 * shares.min():
                notes.append(
                    f"labels are drawn uniformly; the reference's classes have {shares.min():.1%} "
                    f"to {shares.max():.1%} of its images each"
                )
    return list(dict.fromkeys(notes))


def check(reference: Reference, extractor: Extractor, *, gaussian: bool, rows: bool) -> None:
    """Checks that a reference holds what is asked for.

    Raises:
        DataError: It has no images, or its statistics are of other features.
    """
    if rows and reference.data is None:
        raise DataError(
            f"'{reference.name}' holds statistics alone; KID, precision and recall need images",
            "--data NAME|FOLDER|ZIP|NPZ of images, or cmtool eval fid",
        )
    if gaussian and reference.statistics is not None:
        reference.statistics.check(extractor)


def measure(
    reference: Reference,
    extractor: Extractor,
    protocol: Protocol,
    here: Processes,
    *,
    gaussian: bool,
    rows: bool,
    say: Say,
    progress: Progress,
) -> Measured:
    """Features of a reference, as far as they are asked for; all processes call this.

    Raises:
        CmtoolError: As `gather`.
    """
    kept: Vault | None = None
    if reference.data is not None:
        source = source_of(reference.data, f"reference {reference.data.name}", reference.content)
        kept = vault_of(source, extractor)
    found: Gaussian | None = None
    with here.together():
        if gaussian and reference.statistics is not None:
            found = reference.statistics.gaussian.rooted()
        elif gaussian and kept is not None:
            found = _known(kept, protocol, say)
    missing = here.as_first(gaussian and found is None)
    if kept is not None and (rows or missing):
        gather(kept, source, extractor, here, say=say, progress=progress)
        with here.together():
            if missing and here.first:
                found = kept.moments(protocol.ddof).rooted()
                write_statistics(_file(kept, protocol), found, {"features": extractor.facts})
    return Measured(found, kept.rows() if rows and kept is not None else None)


def _file(kept: Vault, protocol: Protocol) -> Path:
    return kept.folder / f"statistics-{protocol.ddof}.npz"


def _known(kept: Vault, protocol: Protocol, say: Say) -> Gaussian | None:
    path = _file(kept, protocol)
    try:
        return open_statistics(path).gaussian if path.is_file() else None
    except DataError as problem:
        say(f"{problem.message}; it is made again")
        return None
