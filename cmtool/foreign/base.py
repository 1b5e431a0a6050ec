"""What every reader of published weights returns, and how it settles what a file does not tell."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cmtool.denoiser import Kind, Use
from cmtool.errors import CheckpointError, Say
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
        label_dropout: Share of images whose class was hidden in training; above 0, a diffusion
            model can be guided.
    """

    network: Network
    state: dict[str, Tensor]
    denoiser: DenoiserSettings
    schedule: Schedule
    kind: Kind
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ()
    origin: dict[str, str] = field(default_factory=dict)
    times: dict[Use, tuple[float, ...]] = field(default_factory=dict)
    label_dropout: float = 0.0


def known_by_name(
    path: Path,
    presets: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    keys: Container[str],
    names: Iterable[str],
) -> tuple[str, dict[str, Any]]:
    """What is known of a published file.

    Args:
        path: The file.
        presets: Names of published files of its layout, to what is known of them.
        facts: What the user knows, which counts before that; "preset" among them is such a name.
        keys: What of a file of this layout can be told.
        names: Names to try where the user gave none: of the file, or of the folders it is in.

    Returns:
        The published name, "" for none, and all that is known.

    Raises:
        CheckpointError: The user's preset or another fact is of files of another layout.
    """
    given = {key: value for key, value in facts.items() if key != "preset"}
    if other := [key for key in given if key not in keys]:
        raise CheckpointError(
            f"'{path}' is not of a layout with --as {', '.join(other)}", "drop it"
        )
    asked = facts.get("preset")
    if asked is not None and asked not in presets:
        raise CheckpointError(
            f"'{path}' is no file of the layout of the preset '{asked}'",
            f"--as {' or '.join(presets)}",
        )
    found = asked or next((name for name in names if name in presets), "")
    return found, {**presets.get(found, {}), **given}


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


SECOND_LEVEL = {
    "cd_imagenet64": 1.3824,
    "ct_imagenet64": 1.9128,
    "cd_bedroom256_l2": 3.5197,
    "cd_bedroom256_lpips": 4.3656,
    "ct_bedroom256": 3.9912,
    "ct_cat256": 5.2485,
}
"""Where OpenAI's models take their second step, by a part of their names; the first is at 80.

Source: launch.sh of the released code, whose `--ts 0,22,39 --steps 40` is level 22 of 40, and so
on. None is published for cd_cat256.
"""


def published_times(name: str, schedule: Schedule) -> dict[Use, tuple[float, ...]]:
    """Published noise levels of a published consistency model, by its file's or folder's name.

    None where the model's own noise does not begin at 80, since then it is another.

    Example:
        >>> from cmtool.schedules.karras import Karras
        >>> published_times("ct_cat256.pt", Karras(0.002, 80.0))
        {2: (80.0, 5.2485)}
    """
    level = next((level for part, level in SECOND_LEVEL.items() if part in name), None)
    return {} if level is None or schedule.t_max != 80.0 else {2: (80.0, level)}
