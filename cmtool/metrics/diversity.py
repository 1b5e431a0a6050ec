"""How much images differ from each other: the mean over all pairs, at the cost of one pass."""

import hashlib
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmtool.errors import DataError
from cmtool.metrics.similarity import LPIPS_LEAST, TRUNK


class PairMean:
    """Mean of |a - b|^2 over all pairs of vectors that came, in memory for one of them.

    With m the mean vector, sum over i < j of |a_i - a_j|^2 = n sum |a_i - m|^2, so the mean is
    twice the unbiased variance, summed over the values.
    """

    def __init__(self) -> None:
        self.n = 0
        self._mean: Tensor | None = None
        self._scatter = 0.0

    def add(self, vectors: Tensor) -> None:
        """Takes (B, d) vectors, B >= 1."""
        x = vectors.double()
        mean = x.mean(0)
        self._join(len(x), mean, float((x - mean).square().sum()))

    def join(self, other: "PairMean") -> None:
        """Takes all that another has taken."""
        if other._mean is not None:
            self._join(other.n, other._mean, other._scatter)

    def _join(self, n: int, mean: Tensor, scatter: float) -> None:
        if self._mean is None:
            self._mean = torch.zeros_like(mean)
        gap = mean - self._mean
        self._scatter += scatter + float(gap.square().sum()) * self.n * n / (self.n + n)
        self._mean = self._mean + gap * (n / (self.n + n))
        self.n += n

    @property
    def pairs(self) -> int:
        """How many there are."""
        return self.n * (self.n - 1) // 2

    def value(self) -> float:
        """The mean.

        Raises:
            ValueError: There is no pair.
        """
        if self.n < 2:
            raise ValueError(f"a pair needs two vectors, got {self.n}")
        return 2 * self._scatter / (self.n - 1)


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
        scale = max(1.0, LPIPS_LEAST / min(x.shape[2:]))
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


def lpips_place() -> Path:
    """Where AlexNet's weights have to lie: in torch's cache."""
    return Path(torch.hub.get_dir(), "checkpoints", TRUNK)


def missing_lpips() -> str | None:
    """What to say where LPIPS cannot be computed; None where it can."""
    try:
        import lpips  # noqa: F401
    except ImportError:
        return "no LPIPS: pip install lpips"
    if lpips_place().is_file():
        return None
    return (
        f"no LPIPS without AlexNet's weights: put https://download.pytorch.org/models/{TRUNK} "
        f"into {lpips_place().parent}"
    )


@lru_cache
def open_lpips(device: torch.device) -> Lpips:
    """The network, with the linear layers that the package lpips brings.

    Raises:
        DataError: The trunk's file is another.
    """
    from lpips import LPIPS

    place = lpips_place()
    with warnings.catch_warnings():
        # lpips builds its trunk with torchvision's old keyword.
        warnings.simplefilter("ignore", UserWarning)
        network = LPIPS(net="alex", verbose=False, pnet_rand=True).requires_grad_(False).eval()
    try:
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
