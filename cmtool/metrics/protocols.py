"""Protocols: every choice behind a figure under one name, so that figures can be compared."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cmtool import images
from cmtool.errors import RecipeError, did_you_mean

FULL = 50_000
"""Images of a published figure."""


@dataclass(frozen=True)
class Protocol:
    """What is computed from which images how; a figure's record holds all of it.

    Args:
        name: What the user types.
        mode: How Inception gets its images; see `features.inception.MODES`.
        rounding: How samples become bytes; see `quantise`.
        ddof: Covariances divide by n - ddof.
        inception_score: "chunks" of 5,000 in order, or 10 shuffled "splits".
        references: Reference images for precision and recall; None is all.
        features: The network.
        neighbours: k of precision and recall.
    """

    name: str
    mode: str
    rounding: Literal["floor", "nearest"]
    ddof: int
    inception_score: Literal["chunks", "splits"]
    references: int | None
    features: str = "inception"
    neighbours: int = 3

    def quantise(self, x: Tensor) -> Tensor:
        """Samples in [-1, 1] to the bytes that this protocol measures."""
        return floor_to_uint8(x) if self.rounding == "floor" else images.to_uint8(x)

    def record(self) -> dict[str, Any]:
        """All of it for a figure's record."""
        return asdict(self)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # Song et al. 2023 (arXiv 2303.01469) for CIFAR-10: clean-fid's legacy_tensorflow against
        # the training images, the inception score of torch-fidelity.
        Protocol(
            "cm-cifar10",
            mode="legacy_tensorflow",
            rounding="floor",
            ddof=1,
            inception_score="splits",
            references=None,
        ),
        # Dhariwal & Nichol 2021 (arXiv 2105.05233); Song et al. 2023 for ImageNet and LSUN.
        Protocol(
            "adm",
            mode="legacy_tensorflow",
            rounding="floor",
            ddof=1,
            inception_score="chunks",
            references=10_000,
        ),
        # Karras et al. 2022 (arXiv 2206.00364): the minimum of three seeds is published.
        Protocol(
            "edm",
            mode="legacy_tensorflow",
            rounding="nearest",
            ddof=1,
            inception_score="splits",
            references=None,
        ),
        # Parmar, Zhang & Zhu 2022 (arXiv 2104.11222).
        Protocol(
            "clean",
            mode="clean",
            rounding="nearest",
            ddof=1,
            inception_score="splits",
            references=None,
        ),
    )
}
_OF_DATA = {
    "cifar10": "cm-cifar10",
    "imagenet64": "adm",
    "lsun-bedroom": "adm",
    "lsun-cat": "adm",
}


def floor_to_uint8(x: Tensor) -> Tensor:
    """clip(floor(127.5 (x + 1)), 0, 255): (*) float in [-1, 1] -> (*) uint8.

    Half a grey level darker than rounding. A byte u that went through `images.from_uint8` may come
    back as u - 1: this is for samples only.

    Source:
        Song et al. 2023, arXiv 2303.01469: the published code of both versions.
    """
    return ((x.to(torch.float32) + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        RecipeError: There is none.

    Example:
        >>> protocol("adm").references
        10000
    """
    if name not in PROTOCOLS:
        raise RecipeError(
            f"unknown protocol '{name}'{did_you_mean(name, PROTOCOLS)}",
            f"one of {', '.join(PROTOCOLS)}",
        )
    return PROTOCOLS[name]


def protocol_for(data: str) -> Protocol:
    """The protocol that published figures on a data set follow; `clean` where there are none.

    Example:
        >>> protocol_for("cifar10").name, protocol_for("digits").name
        ('cm-cifar10', 'clean')
    """
    return PROTOCOLS[_OF_DATA.get(data, "clean")]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Why two figures must not be compared, from their records; empty if they may be.

    Args:
        a: Keys of `Protocol.record`, `n`, `reference` and a feature network's facts, nested or not.
        b: The same of the other.

    Example:
        >>> differences({"n": 50000, "ddof": 1}, {"n": 10000, "ddof": 1})
        ['n 50000 and 10000']
    """
    found = []
    for key in sorted(a.keys() | b.keys()):
        one, other = a.get(key), b.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += [f"{key}.{line}" for line in differences(one, other)]
        elif one != other:
            found.append(f"{key} {one} and {other}")
    return found
