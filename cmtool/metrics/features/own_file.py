"""A feature network of the user's own: a TorchScript or `torch.export` file and a sidecar.

Such a file is a program: loading and running it does what it says, with your rights. So the sidecar
must hold its sha256, and nothing of a file is loaded before its bytes are those: what runs is what
somebody has looked at. `NET.toml` beside `NET.pt`, `NET.ts` or `NET.pt2`:

    sha256 = "..."                    # of the network's file
    dim = 64                          # width of its features
    size = 32                         # it takes (B, 3, size, size)
    resize = "none"                   # bicubic, bilinear, clean or none
    range = [0, 1]                    # what bytes 0 .. 255 become; then (x - mean) / std
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    name = "resnet56"                 # the figure is called FD-resnet56
"""

import hashlib
import io
import re
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmtool.errors import DataError, did_you_mean
from cmtool.files import why
from cmtool.metrics.features.base import Extractor, Facts
from cmtool.metrics.features.resize import RESIZES

SUFFIXES = (".pt", ".ts", ".pt2")
MAX_SIZE = 4096
TAKEN = ("inception", "lite0", "pixel")
"""Names of other networks: a figure must not bear one of them."""
VERSION = 1


@dataclass(frozen=True)
class Sidecar:
    """How a network wants its images.

    Args:
        name: What it is called; the file's name if the table has none.
        sha256: Of its file.
        dim: Width of its features.
        size: Side of its images.
        resize: A name in `RESIZES`.
        range: What 0 and 255 become.
        mean: Taken off each channel then.
        std: What each channel is divided by then.
    """

    name: str
    sha256: str
    dim: int
    size: int
    resize: str = "bicubic"
    range: tuple[float, ...] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            raise ValueError("sha256 must be 64 hexadecimal digits")
        if self.dim < 1 or not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"dim must be at least 1 and size 1 .. {MAX_SIZE}")
        if self.resize not in RESIZES:
            raise ValueError(f"resize must be one of {', '.join(RESIZES)}, got '{self.resize}'")
        if len(self.range) != 2 or len(self.mean) != 3 or len(self.std) != 3 or 0 in self.std:
            raise ValueError("range has two numbers, mean and std three, std none of 0")
        if re.fullmatch(r"[\w.-]{1,40}", self.name) is None or self.name in TAKEN:
            raise ValueError(f"'{self.name}' is no name for a network")


def open_file(path: Path, device: torch.device) -> Extractor:
    """The network in a file, if its bytes are those that its sidecar tells.

    Raises:
        DataError: One of the two is missing or wrong, or the file is no such network.
    """
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise DataError(f"cannot read the feature network '{path}': {why(problem)}") from None
    found = hashlib.sha256(content).hexdigest()
    sidecar = _sidecar(path.with_suffix(".toml"), found)
    if sidecar.sha256 != found:
        raise DataError(
            f"'{path}' has sha256 {found}, its sidecar tells {sidecar.sha256}",
            "the file runs as a program: if you trust it, put its sha256 into the sidecar",
        )
    name = sidecar.name
    facts: Facts = {
        "features": name,
        "weights": found,
        "resize": f"{sidecar.resize} {sidecar.size}",
        "input": f"range {list(sidecar.range)}, mean {list(sidecar.mean)}, std {list(sidecar.std)}",
        "version": VERSION,
    }
    network = _Own(_load(path, content, device), sidecar, path)
    return Extractor(name, sidecar.dim, 0, network, facts, device)


class _Own:
    def __init__(self, net: Callable[[Tensor], Any], sidecar: Sidecar, path: Path) -> None:
        self.net, self.sidecar, self.path = net, sidecar, path

    def __call__(self, images: Tensor, probabilities: bool) -> tuple[Tensor, None]:
        s = self.sidecar
        low, high = s.range
        x = RESIZES[s.resize](images, s.size) / 255 * (high - low) + low
        mean, std = x.new_tensor(s.mean), x.new_tensor(s.std)
        try:
            features = self.net((x - mean[:, None, None]) / std[:, None, None])
        except Exception as problem:  # any operation of any network
            reason = str(problem).strip().splitlines()[-1:] or [type(problem).__name__]
            raise DataError(
                f"'{self.path}' does not take images {tuple(x.shape)}: {reason[0]}",
                "check size in its sidecar; export it for any number of images",
            ) from problem
        if not isinstance(features, Tensor) or features.shape.numel() != len(images) * s.dim:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features)
            raise DataError(
                f"'{self.path}' gives {shape} for {len(images)} images, not {s.dim} numbers each",
                "check dim in its sidecar",
            )
        return features.reshape(len(images), s.dim), None


def _load(path: Path, content: bytes, device: torch.device) -> Callable[[Tensor], Any]:
    try:
        with warnings.catch_warnings():
            # torch.jit.load is deprecated, the files in the world are not.
            warnings.simplefilter("ignore")
            if path.suffix == ".pt2":
                net: Any = torch.export.load(io.BytesIO(content)).module()
            else:
                net = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
                net.eval()
            net.to(device)
    except Exception as problem:  # torch has no one error for what is not its own
        raise DataError(
            f"'{path}' is no TorchScript or torch.export file that this torch reads",
            "save it by torch.export.save(torch.export.export(net, ...), 'NET.pt2')",
        ) from problem
    return net  # type: ignore[no-any-return]


def _sidecar(path: Path, found: str) -> Sidecar:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        raise DataError(
            f"a feature network needs a sidecar '{path}'",
            f'write there: sha256 = "{found}", dim = ..., size = ...; see docs/metrics.md',
        ) from None
    except (OSError, ValueError) as problem:
        raise DataError(f"cannot read '{path}': {problem}", "see docs/metrics.md") from None
    known = {field.name: field for field in fields(Sidecar)}
    for key in table:
        if key not in known:
            raise DataError(f"unknown key '{key}' in '{path}'{did_you_mean(key, known)}")
    try:
        values = {key: _typed(key, str(known[key].type), value) for key, value in table.items()}
        return Sidecar(**{"name": path.stem, **values})
    except (TypeError, ValueError) as problem:
        raise DataError(f"'{path}': {problem}", "see docs/metrics.md") from None


def _typed(key: str, kind: str, value: Any) -> Any:
    if "tuple" in kind:
        numbers = value if isinstance(value, list) else None
        if numbers is None or any(type(number) not in (int, float) for number in numbers):
            raise ValueError(f"{key} must be a list of numbers")
        return tuple(map(float, numbers))
    expected = int if "int" in kind else str
    if type(value) is not expected:
        raise ValueError(f"{key} must be {'a whole number' if expected is int else 'a text'}")
    return value
