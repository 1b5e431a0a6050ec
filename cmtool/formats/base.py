"""What a file format is: how a model is written, and how what was written is opened to be
compared."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from cmtool.denoiser import Denoiser
from cmtool.errors import CheckpointError
from cmtool.workflows.load import Model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Run = Callable[..., Tensor]
"""A program in its runtime: tensors to a tensor."""


@dataclass(frozen=True)
class Source:
    """What is exported.

    Args:
        model: The model, float32, on the CPU; its matrices hold numbers that `dtype` can hold.
        dtype: Key of `DTYPES`: in which type the matrices are stored.
        times: Decreasing noise levels of a sampler that is to be in the file; empty is the denoiser
            alone.
    """

    model: Model
    dtype: str = "float32"
    times: tuple[float, ...] = ()

    @property
    def denoiser(self) -> Denoiser:
        """The model's denoiser."""
        return self.model.denoiser

    @property
    def levels(self) -> tuple[float, float]:
        """The model's smallest and largest noise level."""
        return self.denoiser.schedule.noise_range

    def state(self) -> dict[str, Tensor]:
        """The network's weights by our names, each in memory of its own: those of two axes and more
        in `dtype`, vectors and numbers, which weigh nothing, in float32."""
        return {key: stored(t, self.dtype) for key, t in self.denoiser.network.state_dict().items()}


def stored(tensor: Tensor, dtype: str) -> Tensor:
    """A weight as it is stored."""
    kind = DTYPES[dtype] if tensor.ndim > 1 and tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(kind, copy=True).contiguous()


@dataclass(frozen=True)
class Pair:
    """Two functions that must agree: of the model here, and of the file in its own runtime.

    Args:
        name: What is compared, for the report.
        ours: A denoiser, (x (B, C, H, W) float32, sigma (B,) float32, label (B,) int64 or None) ->
            (B, C, H, W); or a sampler of `draws` draws, (noise (draws, B, C, H, W) float32, label)
            -> (B, C, H, W).
        theirs: The same of the file. `ours` and `theirs` get the same tensors, some of which are
            not contiguous.
        draws: 0 for a denoiser.
        tolerance: Largest difference allowed, in units of the largest absolute output, or of 1 if
            that is larger.
        levels: Noise levels to compare at; empty takes the model's smallest, a middle and its
            largest.
    """

    name: str
    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor]
    draws: int = 0
    tolerance: float = 1e-5
    levels: tuple[float, ...] = ()


class Format(ABC):
    """A file format.

    Class variables:
        suffix: Of the file; "" is a folder.
        title: What it is for, a line.
        needs: Packages without which it cannot be written and compared.
        dtypes: Types that weights can be stored in.
        sampler: Whether `--steps` or `--times` puts a whole sampler into the file.
        without_class: Whether a model of classes can be asked for no class (-1).
    """

    suffix: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    dtypes: ClassVar[tuple[str, ...]] = tuple(DTYPES)
    sampler: ClassVar[bool] = False
    without_class: ClassVar[bool] = True

    def check(self, source: Source) -> None:  # noqa: B027 - most formats hold every model
        """Refuses what the format cannot hold, before anything is written.

        Raises:
            CheckpointError: Names the layer or the setting.
        """

    @abstractmethod
    def write(self, source: Source, path: Path) -> None:
        """Writes the file, or a folder, `path` in an empty folder; other files beside it, whose
        names begin with that of `path`, belong to it."""

    @abstractmethod
    def pairs(self, source: Source, path: Path) -> list[Pair]:
        """Opens what was written in its own runtime."""

    @abstractmethod
    def usage(self, source: Source, name: str) -> str:
        """Markdown for the model card: how to use the file `name`, and what it does not hold."""


def module(name: str) -> Any:
    """An optional package, imported only by formats that need it."""
    return importlib.import_module(name)


def refuse(name: str, what: str, why: str, hint: str | None = None) -> CheckpointError:
    """What to raise for a model that the format `name` cannot hold; `what` is a layer or
    setting."""
    return CheckpointError(
        f"{what} cannot be written as '{name}': {why}",
        hint or "cmtool export safetensors keeps everything",
    )
