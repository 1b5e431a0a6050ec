"""What samples are held against: images, or the mean and covariance of their features in a file.

Read as they are: clean-fid's, EDM's and pytorch-fid's npz (mu, sigma), ADM's npz (those, and images
in arr_0), EDM2's pickles (metric -> mu, sigma), and npz files of images.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmtool.data.base import ImageSet, Indices, Labels, Pixels
from cmtool.errors import DataError
from cmtool.files import why
from cmtool.metrics._npz import Npz, write
from cmtool.metrics.features.base import Extractor
from cmtool.metrics.features.inception import DIM, MODES
from cmtool.metrics.frechet import Array, Gaussian, Moments, Rooted
from cmtool.metrics.protocols import PROTOCOLS
from cmtool.pickled import Call, Refused, read

SUFFIXES = (".npz", ".pkl")
MAX_DIM = 32_768
MAX_PICKLE = 2**30
BLOCK = 1024
"""Images at a time."""
_OURS = "cmtool"
_IN_NETWORK = "legacy_tensorflow"
"""How ADM's and EDM2's images came to Inception's size."""
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_ALLOWED = (*_RECONSTRUCT, "numpy.ndarray", "numpy.dtype")


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of the features of a set of images, from a file.

    Args:
        gaussian: Both; its n is 0 where the file does not tell.
        facts: Where it is from: file, sha256, layout, and what a file of ours tells of its making.
        images: Images of the set, where the file has some: ADM's, for precision and recall.
    """

    gaussian: Gaussian
    facts: dict[str, Any]
    images: ImageSet | None = field(default=None, repr=False)

    def check(self, extractor: Extractor) -> None:
        """Checks that they can be of features such as the extractor's.

        Raises:
            DataError: They are of other features, another mode or another width.
        """
        file, dim = self.facts["file"], self.gaussian.mean.size
        made, facts = self.facts.get("features"), extractor.facts
        if made is not None and made != facts:
            keys = made.keys() | facts.keys()
            other = sorted(key for key in keys if made.get(key) != facts.get(key))
            raise DataError(
                f"the statistics '{file}' were made with other features: "
                + ", ".join(f"{key} {made.get(key)}, not {facts.get(key)}" for key in other),
                "make them again, or use the features that they were made with",
            )
        if made is None and (extractor.name != "inception" or dim != DIM):
            raise DataError(
                f"the statistics '{file}' have {dim} features and do not tell of which network; "
                f"only {DIM} of Inception are taken so, not '{extractor.name}'",
                "--data NAME|FOLDER|ZIP|NPZ of images",
            )
        mode = self.facts.get("mode")
        if mode is not None and mode != facts["mode"]:
            names = "|".join(p.name for p in PROTOCOLS.values() if p.mode == mode)
            raise DataError(
                f"the statistics '{file}' are for clean-fid's mode {mode}, not {facts['mode']}",
                f"--protocol {names}" if names else "other statistics: no protocol is for that",
            )


def open_statistics(path: Path) -> Statistics:
    """Mean and covariance from a file.

    Raises:
        DataError: It cannot be read, holds something else, or no mean and covariance.
    """
    facts: dict[str, Any] = {"file": path.name, "sha256": _file_hash(path)}
    if path.suffix == ".pkl":
        mean, covariance = _edm2(path)
        facts |= {"layout": "edm2", "mode": _IN_NETWORK}
        return Statistics(_gaussian(mean, covariance, 0, path), facts)
    npz = Npz(path)
    if not {"mu", "sigma"} <= set(npz.names):
        raise DataError(
            f"'{path}' holds {', '.join(npz.names[:8]) or 'nothing'}, no mu and sigma",
            "a statistics file of clean-fid, ADM, EDM, EDM2 or cmtool",
        )
    if _OURS in npz.names:
        return _ours(npz, facts)
    flat, square = npz.shape("mu")[0], npz.shape("sigma")[0]
    if len(flat) != 1 or square != flat * 2 or not 1 <= flat[0] <= MAX_DIM:
        raise DataError(
            f"mu and sigma of '{path}' are {flat} and {square}, no mean (d,) and covariance (d, d)"
        )
    gaussian = _gaussian(npz.array("mu"), npz.array("sigma"), 0, path)
    mode = next((mode for mode in MODES if f"_{mode}_" in path.name), None)
    if mode is not None:
        facts["mode"] = mode
    if "arr_0" in npz.names:
        facts |= {"layout": "adm", "mode": _IN_NETWORK}
        return Statistics(gaussian, facts, _image_set(npz, "arr_0"))
    return Statistics(gaussian, facts | {"layout": "mu and sigma"})


def write_statistics(path: Path, gaussian: Gaussian, facts: Mapping[str, Any]) -> None:
    """Writes a statistics file, whole or not at all, with a root of the covariance.

    Other tools read its mu and sigma; ours needs no decomposition for them again.

    Args:
        path: An npz.
        gaussian: Of the features.
        facts: How they were made: "features" (`Extractor.facts`), "reference" and so on.

    Raises:
        DataError: It cannot be written.
    """
    rooted = gaussian.rooted()
    write(
        path,
        {
            "mu": gaussian.mean,
            "sigma": gaussian.covariance,
            "root": rooted.root,
            "n": np.array(gaussian.n),
            _OURS: np.array(json.dumps(dict(facts))),
        },
    )


def is_statistics(path: Path) -> bool:
    """Whether a file is one of statistics, not of images.

    Raises:
        DataError: It is damaged.
    """
    return path.suffix == ".pkl" or (path.suffix == ".npz" and "mu" in Npz(path).names)


def open_images(path: Path) -> ImageSet:
    """The images of an npz: uint8 (N, H, W, 1 or 3), as ADM's samples; labels (N,) if there.

    A file that is not compressed is not read into memory.

    Raises:
        DataError: It is damaged, or holds no such array.
    """
    npz = Npz(path)
    for name in ("arr_0", "images", *npz.names):
        if name in npz.names and len(npz.shape(name)[0]) == 4:
            return _image_set(npz, name)
    raise DataError(
        f"'{path}' holds no images, (N, H, W, 3) uint8, but {', '.join(npz.names[:8]) or 'nothing'}"
    )


def content_hash(data: ImageSet) -> str:
    """sha256 of all images of a set in their order, and of their shape."""
    digest = hashlib.sha256(repr((len(data), data.image_shape)).encode())
    for start in range(0, len(data), BLOCK):
        indices = np.arange(start, min(start + BLOCK, len(data)))
        digest.update(data.images(indices).tobytes())
    return digest.hexdigest()


def _ours(npz: Npz, facts: dict[str, Any]) -> Statistics:
    try:
        made = json.loads(str(npz.array(_OURS)))
        n, mean, root = int(npz.array("n")), npz.array("mu"), npz.array("root")
        if mean.ndim != 1 or root.ndim != 2 or len(root) != mean.size:
            raise ValueError("mu and root do not fit")
        if not (np.isfinite(mean).all() and np.isfinite(root).all()):
            raise ValueError("a number is not finite")
        return Statistics(Rooted(mean, root, n), {**made, **facts, "layout": "cmtool"})
    except (KeyError, TypeError, ValueError) as problem:
        raise npz.damaged(problem) from None


def _gaussian(mean: NDArray[Any], covariance: NDArray[Any], n: int, path: Path) -> Moments:
    problem = ""
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        problem = f"mean {mean.shape} and covariance {covariance.shape} do not fit"
    elif mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        problem = f"they are {mean.dtype} and {covariance.dtype}, no floats"
    elif not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        problem = "a number is not finite"
    else:
        largest = float(np.abs(covariance).max())
        if np.abs(covariance - covariance.T).max() > 1e-5 * largest:
            problem = "the covariance is not symmetric"
        elif covariance.diagonal().min() < -1e-5 * largest:
            problem = "a variance is negative"
    if problem:
        raise DataError(f"'{path}' holds no mean and covariance: {problem}", "fetch it again")
    return Moments(mean.astype(np.float64), covariance.astype(np.float64), n)


def _image_set(npz: Npz, name: str) -> ImageSet:
    shape, dtype = npz.shape(name)
    n, height, width, channels = shape if len(shape) == 4 else (0, 0, 0, 0)
    if dtype != np.uint8 or channels not in (1, 3) or height != width or not n:
        raise DataError(
            f"'{name}' in '{npz.path}' is {shape} {dtype}, no square images (N, H, W, 3) uint8"
        )
    stored = npz.mapped(name)

    def images(indices: Indices) -> Pixels:
        return np.ascontiguousarray(stored[indices].transpose(0, 3, 1, 2))

    labels = _labels(npz, n)
    classes = () if labels is None else tuple(map(str, range(int(labels.max()) + 1)))
    facts: dict[str, str | int] = {"name": npz.path.name, "source": npz.path.name, "images": n}
    return ImageSet(
        npz.path.name, (channels, height, width), n, images, labels, classes, facts=facts
    )


def _labels(npz: Npz, n: int) -> Labels | None:
    for name in ("arr_1", "labels"):
        if name in npz.names:
            shape, dtype = npz.shape(name)
            labels = npz.array(name) if shape == (n,) and dtype.kind in "iu" else None
            if labels is not None and labels.min() >= 0 and labels.max() < n:
                return labels.astype(np.int64)
    return None


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise DataError(f"cannot read '{path}': {why(problem)}") from None


def _edm2(path: Path) -> tuple[Array, Array]:
    """Mean and covariance for FID from a pickle of EDM2, without running anything of it."""
    try:
        if path.stat().st_size > MAX_PICKLE:
            raise Refused(f"it has more than {MAX_PICKLE:,} bytes")
        content, _ = read(path.read_bytes(), lambda name: name in _ALLOWED)
        found = content.get("fid") if isinstance(content, dict) else None
        if not isinstance(found, dict):
            raise Refused("it holds no statistics for 'fid'")
        return _array(found.get("mu")), _array(found.get("sigma"))
    except Refused as problem:
        raise DataError(f"'{path}' is no statistics file of EDM2: {problem}") from None


def _array(value: Any) -> Array:
    match value:
        case Call(path, _, (_, shape, Call("numpy.dtype", (code, *_)), False, content)) if (
            path in _RECONSTRUCT
        ):
            pass
        case _:
            raise Refused("mu or sigma is no plain array")
    kind = code.decode("latin1") if isinstance(code, bytes) else code
    if kind not in ("f8", "<f8", "f4", "<f4") or not isinstance(content, bytes | memoryview):
        raise Refused("mu or sigma is no array of float32 or float64")
    flat = np.frombuffer(content, np.dtype(kind))
    plain = isinstance(shape, tuple) and all(type(side) is int and side > 0 for side in shape)
    if not plain or int(np.prod(shape, dtype=object)) != flat.size:
        raise Refused("mu or sigma has another size than it tells")
    return flat.reshape(shape).astype(np.float64)
