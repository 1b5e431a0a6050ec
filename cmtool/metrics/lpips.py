"""LPIPS on AlexNet for figures: where its weights may lie, and the distance as an embedding."""

import hashlib
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmtool.data.places import cache_dir
from cmtool.errors import DataError
from cmtool.tensor_file import read_tensors

SMALLEST = 224
"""Smaller images are enlarged to this."""
TRUNK = "alexnet-owt-7be5be79.pth"
"""torchvision's AlexNet, in torch's cache."""
FILE = "lpips_alex_fp32.safetensors"
"""AlexNet's convolutions under torchvision's names, in our cache under weights/."""


@dataclass(frozen=True, eq=False)
class Lpips:
    """LPIPS v0.1 on AlexNet as an embedding: |e(a) - e(b)|^2 is LPIPS(a, b).

    Its linear layers have no negative weights, so their roots go into the embedding.

    Source:
        Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric",
        Eq. 1.
    """

    network: Any = field(repr=False)
    facts: dict[str, str]

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] to (B, d) float32; small ones are enlarged to 224."""
        x = images.float().expand(-1, 3, -1, -1)
        scale = max(1.0, SMALLEST / min(x.shape[2:]))
        if scale > 1:
            size = [round(scale * side) for side in x.shape[2:]]
            x = torch.nn.functional.interpolate(x, size=size, mode="bilinear")
        parts = []
        with torch.autocast(x.device.type, enabled=False):
            layers = self.network.net(self.network.scaling_layer(x))
            for layer, linear in zip(layers, self.network.lins, strict=True):
                unit = layer / (layer.square().sum(1, keepdim=True).sqrt() + 1e-10)
                weight = linear.model[-1].weight.clamp(min=0).sqrt().reshape(1, -1, 1, 1)
                parts.append((unit * weight / unit[0, 0].numel() ** 0.5).flatten(1))
        return torch.cat(parts, 1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS of each pair: (B, C, H, W) twice -> (B,)."""
        return (self.embed(a) - self.embed(b)).square().sum(1)


def weights_file() -> Path | None:
    """AlexNet's weights: in our cache or in torch's."""
    places = (cache_dir() / "weights" / FILE, Path(torch.hub.get_dir(), "checkpoints", TRUNK))
    return next((place for place in places if place.is_file()), None)


def missing_lpips() -> str | None:
    """What to say where LPIPS cannot be computed; None where it can. A figure on the side is no
    reason for a download."""
    try:
        import lpips  # noqa: F401
    except ImportError:
        return "no LPIPS: pip install lpips"
    if weights_file() is not None:
        return None
    return (
        f"no LPIPS without AlexNet's weights: put https://download.pytorch.org/models/{TRUNK} "
        f"into {Path(torch.hub.get_dir(), 'checkpoints')}"
    )


def open_lpips(device: torch.device) -> Lpips:
    """The network, with the linear layers that the package lpips brings.

    Raises:
        DataError: There are no weights, or a file that does not hold AlexNet's.
    """
    place = weights_file()
    if place is None:
        raise DataError(str(missing_lpips()))
    return _open(place, device)


@lru_cache
def _open(place: Path, device: torch.device) -> Lpips:
    from lpips import LPIPS

    with warnings.catch_warnings():
        # lpips builds its trunk with torchvision's old keyword.
        warnings.simplefilter("ignore", UserWarning)
        network = LPIPS(net="alex", verbose=False, pnet_rand=True).requires_grad_(False).eval()
    try:
        if place.suffix == ".safetensors":
            state = read_tensors(place)
        else:
            state = torch.load(place, map_location="cpu", weights_only=True)
        for part in (network.net.slice1, network.net.slice2, network.net.slice3,
                     network.net.slice4, network.net.slice5):  # fmt: skip
            part.load_state_dict({key: state[f"features.{key}"] for key in part.state_dict()})
    except Exception as problem:  # A damaged file makes each reader trip over something else.
        raise DataError(
            f"'{place}' does not hold AlexNet's weights: {type(problem).__name__}", "fetch it again"
        ) from None
    facts = {
        "network": "LPIPS v0.1 alex",
        "weights": hashlib.sha256(place.read_bytes()).hexdigest(),
    }
    return Lpips(network.to(device), facts)
