"""`cmtool edit interpolate`: the way from one picture to another, or from one seed to another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cmtool import images
from cmtool.denoiser import Denoiser
from cmtool.editors.base import strength_level
from cmtool.errors import DataError, RecipeError, Say, silent
from cmtool.interpolation import add_noise, interpolate, noise_by_ode, noise_by_search
from cmtool.pictures import read_picture
from cmtool.rng import SeedRng
from cmtool.sampling import trajectory_end
from cmtool.tensors import Denoise, rms
from cmtool.workflows._draw import Plan, default_batch, edit_levels, guided, labelled
from cmtool.workflows._edit_job import Wish as Wish
from cmtool.workflows._edit_job import inner_solvers, one_class, open_editing_model
from cmtool.workflows._edit_run import at_model_size, size_of
from cmtool.workflows._edit_sizes import Padding
from cmtool.workflows._edit_views import pixels_of
from cmtool.workflows._times import parse_times
from cmtool.workflows.load import pick_device

Way = Literal["auto", "ode", "search", "noise"]
INNER_STEPS = 35
"""A diffusion model's evaluations for each frame."""


@dataclass(frozen=True)
class Request:
    """What a user asks of `cmtool edit interpolate`.

    Args:
        pictures: Two files, or none to go from seed to seed.
        seeds: Two seeds, as typed.
        by: How a picture becomes noise; "auto" is the ODE for a diffusion model and the search for
            a consistency model.
        strength: How much noise `by="noise"` adds, see `strength_level`.
        frames: How many, both ends among them.
        wish: How to sample; `seed` is of the noise that is added.
        out: A strip (`.png`), an animation (`.gif`) or a folder of frames.
        overwrite: Whether it may exist.
        model: Its path; None chooses one.
        weights: See `load`.
        facts: See `load`.
        device: See `load`.
    """

    pictures: tuple[Path, ...] = ()
    seeds: str = "0,1"
    by: Way = "auto"
    strength: float = 0.5
    frames: int = 9
    wish: Wish = field(default_factory=Wish)
    out: Path | None = None
    overwrite: bool = False
    model: Path | None = None
    weights: str = "ema"
    facts: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None


def interpolate_to_file(request: Request, *, say: Say = silent) -> Path:
    """Draws the frames and writes them.

    Raises:
        CmtoolError: The pictures, the model or the wishes do not suit each other.
    """
    out = _target(request)
    _check(request, out)
    files = [read_picture(path) for path in request.pictures]
    coloured = any(not picture.grey for picture in files)
    opened = open_editing_model(
        request.model,
        "interpolate",
        channels=((3,) if coloured else (1, 3)) if files else (),
        labelled=request.wish.label is not None,
        weights=request.weights,
        facts=request.facts,
        say=say,
    )
    model = opened.denoiser.to(pick_device(request.device))
    if coloured and model.image_shape[0] == 1:
        raise DataError(
            "the pictures have colours, and the model makes grey ones", "make them grey"
        )
    walk = _Walk(model, request, say)
    say(f"{model.kind} model {opened.source}: {request.frames} frames")
    if files:
        pair = torch.cat(
            [_at_model_size(picture.tensor(model.image_shape[0]), model) for picture in files]
        )
        if any(picture.size != model.image_shape[1:] for picture in files):
            say("the pictures are brought to the model's size, their middle squares")
        x, sigma = walk.noise_of(pair)
        frames = walk.frames(x, sigma)
        for path, end, picture in zip(request.pictures, frames[[0, -1]], pair, strict=True):
            error = float(rms((end - picture)[None])[0])
            say(f"{path}: the way ends {error:.3g} from it (root mean square; the range is 2)")
    else:
        x, sigma = walk.noise_of_seeds()
        frames = walk.frames(x, sigma)
    _save(out, pixels_of(frames))
    return out


class _Walk:
    """A model on the way between two noisy images."""

    def __init__(self, model: Denoiser, request: Request, say: Say) -> None:
        self.model = model
        self.say = say
        self.schedule = model.schedule
        self.request = request
        wish = request.wish
        times = wish.times
        if isinstance(times, str):
            times = parse_times(times, model.precond.sigma_data)
        self.levels = edit_levels(model, "interpolate", 1, wish.steps, times).tolist()
        plan = guided(Plan(torch.tensor(self.levels), (), 1), model, wish.guidance)
        plan = labelled(plan, model, wish.label)
        self.label = one_class(plan, model, wish.label)
        self.inner = inner_solvers(model, wish.inner_steps, INNER_STEPS)
        if self.inner == ():
            raise RecipeError("--inner-steps must be at least 2 here", "--inner-steps 35")
        self.dtype = torch.float32 if model.device.type == "mps" else torch.float64

    def ask(self, x: Tensor, t: Tensor) -> Tensor:
        """The model's own answer, to as many images as one call takes at a time."""
        batch = default_batch(self.model)
        label = None if self.label is None else torch.full((batch,), self.label, device=x.device)
        found = []
        for some, at in zip(torch.split(x, batch), torch.split(t, batch), strict=True):
            own = None if label is None else label[: len(some)]
            found.append(self.model.bind(own, guidance=self.request.wish.guidance)(some, at))
        return torch.cat(found)

    @property
    def end(self) -> Denoise:
        """The end of the trajectory."""
        if self.inner is None:
            return self.ask
        return trajectory_end(self.ask, self.schedule, self.inner)

    def noise_of(self, pair: Tensor) -> tuple[Tensor, float]:
        """Pictures (2, C, H, W) as noisy images of one level."""
        pair = pair.to(self.model.device).to(self.dtype)
        z = SeedRng(self.request.wish.seed, [0, 1], self.model.device).randn(pair.shape[1:])
        high = self.schedule.noise_range[1]
        by = self.request.by
        if by == "auto":
            by = "search" if self.inner is None else "ode"
        if by == "noise":
            sigma = strength_level(self.schedule, self.request.strength)
            return add_noise(self.schedule, pair, z[:1].to(pair), sigma), sigma
        if by == "search":
            if self.inner is not None:
                raise RecipeError("--by search needs a one-step model", "--by ode, or noise")
            self.say(
                "searching for noise that the model answers with the pictures; it takes a while"
            )
            found = noise_by_search(self.ask, self.schedule, pair, z.to(pair))
            for path, error in zip(self.request.pictures, found.error.tolist(), strict=True):
                self.say(f"{path}: the model's answer to the noise found is {error:.3g} from it")
            return found.x, high
        if self.inner is None:
            raise RecipeError("--by ode needs a diffusion model", "--by search, or noise")
        ends = pair.new_tensor([self.schedule.t_max, self.schedule.t_min])
        times = self.schedule.between(ends[0], ends[1], len(self.inner) + 1)
        return noise_by_ode(self.ask, self.schedule, self.inner, pair, times), high

    def noise_of_seeds(self) -> tuple[Tensor, float]:
        """The first noise of two seeds."""
        high = self.schedule.noise_range[1]
        seeds = _two_seeds(self.request.seeds)
        z = [SeedRng(seed, [0], self.model.device).randn(self.model.image_shape) for seed in seeds]
        return high * torch.cat(z).to(self.dtype), high

    def frames(self, x: Tensor, sigma: float) -> Tensor:
        """All frames, (frames, C, H, W)."""
        count = self.request.frames
        rng = SeedRng(self.request.wish.seed, [0] * count, self.model.device)
        found = interpolate(
            *(self.end, self.schedule, x[0], x[1], sigma, count, self.levels),
            rng=rng,
            straight=bool(self.request.pictures) and self.request.by == "noise",
        )
        return found.cpu()


def _at_model_size(image: Tensor, model: Denoiser) -> Tensor:
    size = (model.image_shape[1], model.image_shape[2])
    image = at_model_size(image, size)
    return Padding(size_of(image), size).pad(image)


def _two_seeds(text: str) -> tuple[int, int]:
    try:
        first, last = (int(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(f"--seeds '{text}' are not two seeds", "--seeds 0,1") from None
    if min(first, last) < 0 or max(first, last) >= 2**63:
        raise RecipeError(f"--seeds {text}: a seed is 0 or more and below 2^63", "--seeds 0,1")
    return first, last


def _target(request: Request) -> Path:
    if request.out is not None:
        return request.out
    if request.pictures:
        first = request.pictures[0]
        return first.with_name(f"{first.stem}.interpolate.png")
    return Path("samples", f"seeds-{request.seeds.replace(',', '-')}.interpolate.png")


def _check(request: Request, out: Path) -> None:
    if len(request.pictures) not in (0, 2):
        raise RecipeError(
            f"{len(request.pictures)} picture(s) given, interpolate goes from one to another",
            "two pictures, or none and --seeds 0,1",
        )
    if not 2 <= request.frames <= 1000:
        raise RecipeError(f"--frames must be 2 .. 1000, got {request.frames}", "--frames 9")
    if not 0 <= request.strength <= 1:
        raise RecipeError(
            f"--strength must lie between 0 and 1, got {request.strength:g}", "--strength 0.5"
        )
    if not 0 <= request.wish.seed < 2**63:
        raise RecipeError(f"--seed must be 0 or more, got {request.wish.seed}", "--seed 0")
    _two_seeds(request.seeds)
    if out.suffix.lower() not in (".png", ".gif", ""):
        raise DataError(f"cannot write frames to '{out}'", "--out FILE.png, FILE.gif or FOLDER")
    if out.exists() and not request.overwrite:
        raise DataError(f"'{out}' is there already", "--overwrite, or another --out")


def _save(out: Path, frames: images.Pixels) -> None:
    if out.suffix.lower() == ".png":
        images.save_png(out, images.grid(frames, len(frames), tile=64))
    elif out.suffix.lower() == ".gif":
        there_and_back = [images.grid(frame[None], 1, tile=128) for frame in frames]
        there_and_back += there_and_back[-2:0:-1]
        images.save_gif(out, there_and_back, [120] * len(there_and_back))
    else:
        for i, frame in enumerate(frames):
            images.save_png(out / f"{i:03d}.png", np.ascontiguousarray(frame))
