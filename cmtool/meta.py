"""What a model is, beside its recipe: `meta.json`, and a part of a single file's header."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, get_args

import torch

from cmtool.denoiser import Denoiser, Kind, Use
from cmtool.errors import CheckpointError

FORMAT = 1


@dataclass(frozen=True)
class Meta:
    """What a model is, beside its recipe.

    Args:
        kind: "diffusion" or "consistency".
        image_shape: (C, H, W).
        classes: The classes' names.
        grid: Noise levels that the model was made for, see `Denoiser`.
        times: Noise levels to sample at by their number, or to edit at, see `Denoiser`.
        step: Optimizer steps taken.
        images: Training images seen.
        weights: Names of the weights in a checkpoint directory.
        origin: Data and teacher.
        sha256: Hash of every weights file.
        versions: Of cmtool and torch.
        format: Of the checkpoint.
    """

    kind: Kind
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ()
    grid: tuple[float, ...] = ()
    times: dict[Use, tuple[float, ...]] = field(default_factory=dict)
    step: int = 0
    images: int = 0
    weights: tuple[str, ...] = ()
    origin: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @classmethod
    def of(cls, model: Denoiser, step: int, batch_size: int, origin: dict[str, Any]) -> "Meta":
        """Describes a model after `step` steps of `batch_size` images."""
        return cls(
            kind=model.kind,
            image_shape=model.image_shape,
            classes=model.classes,
            grid=model.grid,
            times=model.times,
            step=step,
            images=step * batch_size,
            origin=origin,
            versions={"cmtool": version("cmtool"), "torch": torch.__version__},
        )

    @classmethod
    def parse(cls, text: str, where: str) -> "Meta":
        """Reads JSON.

        Raises:
            CheckpointError: It is not a description that this version reads.
        """
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise CheckpointError(
                    f"{where} has checkpoint format {fields['format']}, this cmtool reads {FORMAT}",
                    "use the version of cmtool that wrote it",
                )
            for key in ("image_shape", "classes", "weights"):
                fields[key] = tuple(fields[key])
            fields["grid"] = tuple(map(float, fields.get("grid", ())))
            fields["times"] = _times(fields.get("times", {}))
            if not all(0 <= level < math.inf for level in fields["grid"]):
                raise ValueError(f"grid {fields['grid']}")
            if any(type(name) is not str for name in (*fields["classes"], *fields["weights"])):
                raise ValueError("classes and weights must be names")
            shape, counts = fields["image_shape"], (fields["step"], fields["images"])
            if fields["kind"] not in get_args(Kind) or len(shape) != 3:
                raise ValueError(f"kind '{fields['kind']}', image_shape {shape}")
            if any(type(n) is not int for n in (*shape, *counts)) or min(shape) < 1:
                raise ValueError("image_shape, step and images must be whole numbers")
            return cls(**fields)
        except (
            *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
        ) as error:
            raise CheckpointError(
                f"{where} is damaged: {error}", "use an earlier checkpoint, or fetch it again"
            ) from None


def _times(stored: Mapping[str, list[float]]) -> dict[Use, tuple[float, ...]]:
    times: dict[Use, tuple[float, ...]] = {}
    for key, levels in dict(stored).items():
        use: Use = key if key.isidentifier() else int(key)
        times[use] = tuple(map(float, levels))
        falls = list(times[use]) == sorted(set(times[use]), reverse=True)
        finite = len(levels) > 0 and all(0 < t < math.inf for t in times[use])
        if not falls or not finite or use not in (key, len(levels)):
            raise ValueError(f"times for '{use}' are {levels}")
    return times
