"""What every reader of published weights returns, and how it settles what a file does not tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cmtool.denoiser import Kind
from cmtool.errors import Say
from cmtool.networks.base import Network
from cmtool.schedules.base import Schedule
from cmtool.settings import DenoiserSettings


@dataclass(frozen=True)
class Published:
    """A published model, translated.

    Args:
        network: Its architecture.
        state: Its weights under our names, float32.
        denoiser: How the network is wrapped.
        schedule: The noising process it was trained on.
        kind: "diffusion" or "consistency".
        image_shape: (C, H, W) of one image.
        classes: The classes' names; empty for an unconditional model.
        origin: Where it is from, for people: at least "file" and "layout".
        times: Published noise levels to sample at, see `cmtool.denoiser.Denoiser`.
    """

    network: Network
    state: dict[str, Tensor]
    denoiser: DenoiserSettings
    schedule: Schedule
    kind: Kind
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ()
    origin: dict[str, str] = field(default_factory=dict)
    times: dict[int, tuple[float, ...]] = field(default_factory=dict)


def settle(
    name: str, known: Mapping[str, Any], assumed: Mapping[str, Any], say: Say
) -> dict[str, Any]:
    """Facts about a file, completed with what is usual; every assumption is said."""
    for key, value in assumed.items():
        if key not in known:
            say(f"{name} does not tell {key}: assuming {value} (--as {key}=... to change)")
    return {**assumed, **known}


def numbered(classes: int) -> tuple[str, ...]:
    """Names for classes of which only the number is known."""
    return tuple(str(i) for i in range(classes))
