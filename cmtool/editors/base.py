"""What an editor is, and Algorithm 4: sampling that agrees with a measurement.

An editor turns a picture into an `Edit`: where sampling starts and what every estimate is projected
on. `run_edit` is the loop; nothing else in it knows which editor is at work.

    edit = Superres(factor=4).prepare(reference, rng)     # reference: (B, C, h, w) in [-1, 1]
    x = run_edit(model.bind(label), model.schedule, edit, levels, rng=rng)
    picture = edit.settle(x)                              # (B, C, H, W) in [-1, 1]

How to write one: a file `editors/NAME.py` with one public frozen dataclass that derives from
`Editor`.

Options. Its fields are the options of `cmtool edit NAME`: of type bool, int, float, str, Literal or
Optional of them, each with a default and a line under `Args:` of the class's docstring.
`__post_init__` checks them with ValueError. Pictures are no fields: a mask or a kernel is named in
`pictures` and comes to `prepare` and `degrade` under that name.

Tensors. All are on one device and of one floating dtype, that of the loop: float64, or float32 on a
device without it. Measuring and projecting keep it. Nothing may mix the images of a batch.

Randomness. Only from `rng`, whose draws are (B, *shape): image i of the batch has its own stream.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cmtool.sampling import sample_consistency
from cmtool.schedules.base import Schedule
from cmtool.solvers.base import Noise
from cmtool.tensors import Denoise, expand, rms

Map = Callable[[Tensor], Tensor]
"""(B, *) -> (B, *), each image by itself."""


def clamp(x: Tensor) -> Tensor:
    """The nearest image in [-1, 1]."""
    return x.clamp(-1, 1)


@dataclass(frozen=True)
class Edit:
    """One editing of a batch of pictures, ready for the loop.

    Args:
        shown: (B, C, H, W) the measurement as a picture, unknown pixels 0: what sampling starts
            around, and what `--compare` shows. Its shape is the result's.
        measure: A, a linear operator: (B, C, H, W) -> (B, *). None if nothing is measured.
        y: (B, *) the measurement.
        project: The nearest x with A x = y.
        settle: Brings a result into [-1, 1] for saving without leaving the measurement, where both
            can be had.
        tol: ||A P x - y|| <= tol ||y||; 0 for a projection that is exact to rounding.
        start: (B, C, H, W) images to start from; None starts with all the noise there is.
        sigma: (B,) the noise level that `start` has already: image plus noise of that standard
            deviation.
        strength: Where `start` has no noise yet, how much it is given first, see `strength_level`.
    """

    shown: Tensor
    measure: Map | None = None
    y: Tensor | None = None
    project: Map | None = None
    settle: Map = clamp
    tol: float = 0.0
    start: Tensor | None = None
    sigma: Tensor | None = None
    strength: float = 1.0

    def error(self, x: Tensor) -> Tensor | None:
        """||A x - y|| / ||y|| of every image, (B,); None if nothing is measured."""
        if self.measure is None or self.y is None:
            return None
        y = self.y.flatten(1)
        off = self.measure(x).flatten(1) - y
        return rms(off) / rms(y).clamp(min=torch.finfo(y.dtype).tiny)


class Editor(ABC):
    """Makes edits of pictures. Fields are the user's options.

    Class variables:
        group: "exact" and "iterative" measure and project, the first to rounding; "free" does not.
            Each group's laws are tested on all of its editors.
        sizes: How a picture of another size than the model's is treated: "resize" edits a resized
            copy and brings back what changed, "tile" edits the whole picture and runs the network
            over tiles, "model" edits at the model's size.
        steps: Noise levels by default, unless the model has levels under the editor's name.
        channels: The only number of channels it works on; None is any.
        pictures: Further pictures that it needs. "aligned" ones are (B or 1, 1, H, W) and go
            through every resizing with the reference; "own" ones are (1, 1, h, w). Values 0
            (black) .. 1 (white).
        degrades: Whether the reference is the clean picture, which `prepare` measures itself; of
            the others it is the measurement.
    """

    group: ClassVar[Literal["exact", "iterative", "free"]]
    sizes: ClassVar[Literal["resize", "tile", "model"]]
    steps: ClassVar[int]
    channels: ClassVar[int | None] = None
    pictures: ClassVar[Mapping[str, Literal["aligned", "own"]]] = {}
    degrades: ClassVar[bool] = False

    @property
    def enlarges(self) -> int:
        """How many times higher and wider than the reference the result is."""
        return 1

    @abstractmethod
    def prepare(self, reference: Tensor, rng: Noise, **pictures: Tensor) -> Edit:
        """Makes the edit.

        Args:
            reference: (B, C, H, W) in [-1, 1].
            rng: For random operators and noise.
            **pictures: Those named in the class variable `pictures`.

        Raises:
            DataError: The picture does not suit the editor.
        """

    def degrade(self, image: Tensor, rng: Noise, **pictures: Tensor) -> Tensor:
        """For `--simulate`: clean images in [-1, 1] to a reference for `prepare`, the same where
        `degrades`."""
        return image


def strength_level(schedule: Schedule, strength: float) -> float:
    """The noise level of a strength between 0, the smallest level, and 1, the largest: even steps
    of strength are the levels of EDM's sampler, whatever the schedule.

    Source:
        Karras et al. 2022, arXiv 2206.00364, Eq. 5, with rho = 7.
    """
    low, high = schedule.noise_range
    root = low ** (1 / 7) + strength * (high ** (1 / 7) - low ** (1 / 7))
    return float(min(max(root**7, low), high))


def edit_path(schedule: Schedule, edit: Edit, levels: Tensor) -> Tensor:
    """The noise levels that each image goes through, (n, B): `levels`, (n,); or its own to start
    with and those of `levels` below it, followed by the smallest there is, at which a picture stays
    as it is, where other images of the batch have more."""
    if edit.start is None:
        return levels[:, None].expand(-1, len(edit.shown))
    low, high = schedule.noise_range
    if edit.sigma is None:
        first = levels.new_full((len(edit.start),), strength_level(schedule, edit.strength))
    else:
        first = edit.sigma.to(levels).clamp(low, high)
    paths = [torch.cat([own[None], levels[levels < own]]) for own in first]
    return torch.nn.utils.rnn.pad_sequence(paths, padding_value=low)


def run_edit(
    denoise: Denoise,
    schedule: Schedule,
    edit: Edit,
    levels: Tensor,
    *,
    rng: Noise,
    clamped: bool = True,
    watch: Callable[[float, Tensor], None] | None = None,
) -> Tensor:
    """Samples images that agree with the measurement: at each noise level the network estimates the
    images, the estimate is clamped to [-1, 1], then projected, then brought back to noise.

    Source:
        Song et al. 2023, arXiv 2303.01469, Algorithm 4; with `edit.start` and no projection,
        Meng et al. 2021, arXiv 2108.01073 (SDEdit).

    Args:
        denoise: A consistency function in the schedule's frame, see `Denoiser.bind`; a diffusion
            model becomes one by `cmtool.sampling.trajectory_end`.
        schedule: The frame.
        edit: What to do.
        levels: (n,) decreasing noise levels in the dtype to compute in; see `edit_path`.
        rng: Draws (B, C, H, W); the first draw is the noise to start with, unless `edit` brings its
            own.
        clamped: Whether to clamp.
        watch: Is told of every evaluation: its noise level, and the estimate after projection.

    Returns:
        (B, C, H, W) the last estimate, projected but not settled: it may leave [-1, 1].
    """
    levels = edit_path(schedule, edit, levels.to(edit.shown.device))
    times = schedule.from_sigma(levels)
    still = levels[:1].new_tensor(schedule.noise_range[0] * (1 + 1e-6))
    z = torch.zeros_like(edit.shown) if edit.sigma is not None else rng.randn(edit.shown.shape[1:])
    if edit.start is None:
        x = schedule.perturb(edit.shown.to(times), z.to(times), times[0])
    else:
        x = schedule.renoise(edit.start.to(times), z.to(times), times[0])
    passed = iter(levels.amax(1).tolist())

    def answer(x: Tensor, t: Tensor) -> Tensor:
        x0_hat = torch.where(expand(schedule.sigma(t) > still, x), denoise(x, t).to(x), x)
        return clamp(x0_hat) if clamped else x0_hat

    def project(x0_hat: Tensor) -> Tensor:
        x0_hat = x0_hat if edit.project is None else edit.project(x0_hat)
        if watch is not None:
            watch(next(passed), x0_hat)
        return x0_hat

    return sample_consistency(answer, schedule, x, times, rng=rng, project=project)
