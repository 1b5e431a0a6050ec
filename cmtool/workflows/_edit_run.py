"""One editor at work on one batch of pictures, whatever their size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cmtool.denoiser import Denoiser
from cmtool.editors.base import Edit, Editor, edit_path, run_edit
from cmtool.errors import RecipeError
from cmtool.images import from_uint8, to_uint8
from cmtool.rng import SeedRng
from cmtool.sampling import trajectory_end
from cmtool.solvers.base import Solver
from cmtool.tensors import Denoise
from cmtool.workflows._edit_sizes import (
    Padding,
    Size,
    around,
    bring_into_hole,
    center_square,
    enlarge,
    fitted,
    resize,
    shrink_known,
    tile_starts,
    tiled,
)

Progress = Callable[[int, int], None]
Watch = Callable[[float, Tensor], None]
Pictures = Mapping[str, Tensor]


@dataclass(frozen=True)
class Job:
    """An editor, a model, and how it is sampled.

    Args:
        editor: What to do.
        model: On its device.
        levels: (n,) decreasing noise levels.
        batch: Images in one call of the network.
        label: A class; None is no class.
        guidance: Weight of guidance.
        inner: A diffusion model's ODE steps from each noise level to the image; None for a
            consistency model.
        native: Whether the result is as large as the model's images.
    """

    editor: Editor
    model: Denoiser
    levels: Tensor
    batch: int
    label: int | None = None
    guidance: float = 1.0
    inner: tuple[Solver, ...] | None = None
    native: bool = False

    @property
    def size(self) -> Size:
        """Height and width of the model's images."""
        return self.model.image_shape[1], self.model.image_shape[2]

    def tensor(self, x: Tensor) -> Tensor:
        """A tensor where the loop computes; MPS has no float64."""
        dtype = torch.float32 if self.model.device.type == "mps" else torch.float64
        return x.to(device=self.model.device).to(dtype)

    def denoise(self, spent: Callable[[int], None]) -> Denoise:
        """The model as a consistency function of images of any size."""

        def ask(x: Tensor, t: Tensor) -> Tensor:
            label = None
            if self.label is not None:
                label = torch.full((len(x),), self.label, device=x.device)
            return self.model.bind(label, guidance=self.guidance)(x, t)

        whole = tiled(ask, self.size, self.batch, spent)
        if self.inner is None:
            return whole
        return trajectory_end(whole, self.model.schedule, self.inner)

    def calls(self, edit: Edit) -> int:
        """Images that the network will see."""
        tiles = 1
        for side, tile in zip(edit.shown.shape[2:], self.size, strict=True):
            tiles *= len(tile_starts(side, tile))
        inner = 1 if self.inner is None else sum(solver.nfe for solver in self.inner) + 1
        levels = len(edit_path(self.model.schedule, edit, self.levels))
        return len(edit.shown) * tiles * inner * levels


@dataclass(frozen=True)
class Outcome:
    """What came out, in [-1, 1] and all of one size.

    Args:
        result: (B, C, H, W).
        shown: The measurement as pictures.
        truth: The clean pictures, where they are known.
        error: (B,) relative measurement error of the result before it is brought into [-1, 1].
        saved_error: The same once it is 8-bit.
        tol: What `error` should not exceed; 0 where the projection is exact.
        sigma: (B,) the noise that the pictures had, if that was known or estimated.
    """

    result: Tensor
    shown: Tensor
    truth: Tensor | None
    error: Tensor | None
    saved_error: Tensor | None
    tol: float
    sigma: Tensor | None


def run_job(
    job: Job,
    image: Tensor,
    pictures: Pictures,
    rng: SeedRng,
    *,
    simulate: bool = False,
    watch: Watch | None = None,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Edits a batch.

    Args:
        job: What to do.
        image: (B, C, H, W) in [-1, 1], the clean pictures with `simulate` or for an editor that
            measures them itself, else what is known.
        pictures: What `Editor.pictures` names.
        rng: All that is random.
        simulate: Whether to measure the pictures first.
        watch: See `run_edit`; what it sees may be smaller or larger than the result.
        progress: Is told (images that the network has seen, in all).

    Raises:
        CmtoolError: The pictures do not suit the editor.
    """
    run = _Run(job, rng, watch, progress)
    image = job.tensor(image)
    pictures = {name: job.tensor(picture) for name, picture in pictures.items()}
    if job.editor.sizes == "resize":
        return run.resized(image, pictures, simulate=simulate)
    if job.editor.sizes == "model":
        image = at_model_size(image, job.size)
    elif job.native:
        factor = 1 if simulate else job.editor.enlarges
        room = (job.size[0] // factor, job.size[1] // factor)
        image = resize(image, fitted(size_of(image), room))
    reference = job.editor.degrade(image, rng, **pictures) if simulate else image
    outcome = run.whole(reference, pictures)
    return replace(outcome, truth=image if simulate or job.editor.degrades else None)


def at_model_size(image: Tensor, size: Size) -> Tensor:
    """A picture that fits as it is, else its centred square at the model's size."""
    if fitted(size_of(image), size) == size_of(image):
        return image
    return resize(center_square(image), size)


def size_of(image: Tensor) -> Size:
    """Height and width of (B, C, H, W)."""
    return image.shape[2], image.shape[3]


class _Run:
    """The ways to treat a picture's size, over the same loop."""

    def __init__(self, job: Job, rng: SeedRng, watch: Watch | None, progress: Progress) -> None:
        self.job = job
        self.editor = job.editor
        self.rng = rng
        self.watch = watch
        self.progress = progress

    def sample(self, edit: Edit) -> Tensor:
        """The loop: the result, projected."""
        high = self.job.model.schedule.noise_range[1]
        if edit.sigma is not None and float(edit.sigma.max()) > high:
            raise RecipeError(
                f"noise level {float(edit.sigma.max()):g} is above the model's largest, {high:g}",
                "a smaller --sigma",
            )
        calls, done = self.job.calls(edit), 0

        def spent(count: int) -> None:
            nonlocal done
            done += count
            self.progress(done, calls)

        return run_edit(
            self.job.denoise(spent),
            self.job.model.schedule,
            edit,
            self.job.levels,
            rng=self.rng,
            watch=self.watch,
        )

    def whole(self, reference: Tensor, pictures: Pictures) -> Outcome:
        """The picture as it is, padded where it is smaller than the model's; the network runs over
        tiles of a larger one."""
        factor = self.editor.enlarges
        least = (-(-self.job.size[0] // factor), -(-self.job.size[1] // factor))
        padding = Padding(size_of(reference), least)
        edit = self.editor.prepare(padding.pad(reference), self.rng, **pictures)
        if padding and edit.sigma is not None:  # Mirrored pixels tell nothing more of the noise.
            edit = replace(edit, sigma=self.editor.prepare(reference, self.rng, **pictures).sigma)
        found = self.sample(edit)
        outcome = _outcome(edit, found, edit.settle(found))
        return replace(
            outcome,
            result=padding.crop(outcome.result, factor),
            shown=padding.crop(outcome.shown, factor),
        )

    def resized(self, image: Tensor, pictures: Pictures, *, simulate: bool) -> Outcome:
        """A copy that fits into the model's image; what changed is brought back."""
        mask = pictures.get("mask")
        if mask is not None and not self.job.native:
            holes = (mask >= 0.5).to(image)
            windows = [around(hole[None], self.job.size) for hole in holes]
            if any(image[..., rows, columns].shape != image.shape for rows, columns in windows):
                return self.windowed(image, pictures, windows, simulate=simulate)
        full = self.editor.degrade(image, self.rng, **pictures) if simulate else image
        size = fitted(size_of(image), self.job.size)
        hole = pictures.get("mask")
        hole = None if hole is None else (hole >= 0.5).to(full)
        if hole is None:
            small, given = resize(full, size), dict(pictures)
        else:
            small, small_hole = shrink_known(full, hole, size)
            given = {**pictures, "mask": small_hole}
        padding = Padding(size, self.job.size)
        aligned = {name: padding.pad(picture) for name, picture in given.items()}
        edit = self.editor.prepare(padding.pad(small), self.rng, **aligned)
        found = self.sample(edit)
        settled = edit.settle(found)
        if self.job.native or size == size_of(image):
            outcome = _outcome(edit, found, settled)
            return replace(
                outcome,
                result=padding.crop(outcome.result),
                shown=padding.crop(outcome.shown),
                truth=resize(image, size) if simulate else None,
            )
        if hole is not None:
            changed = bring_into_hole(full, hole, padding.crop(settled))
            edit = self.editor.prepare(full, self.rng, **pictures)
        else:
            change = enlarge(padding.crop(settled - edit.shown), size_of(image))
            edit = self.editor.prepare(full, self.rng, **pictures)
            changed = edit.shown + change
        outcome = _outcome(edit, changed, edit.settle(changed))
        return replace(outcome, truth=image if simulate else None)

    def windowed(
        self,
        image: Tensor,
        pictures: Pictures,
        windows: Sequence[tuple[slice, slice]],
        *,
        simulate: bool,
    ) -> Outcome:
        """The hole and what is about it as a picture of its own, which is made less small; pictures
        with other windows each by itself, as if it were alone."""
        alike = all(window == windows[0] for window in windows)
        some = [slice(None)] if alike else [slice(i, i + 1) for i in range(len(image))]
        changed = image.clone()
        for which, window in zip(some, windows, strict=False):
            rng = SeedRng(self.rng.seed, self.rng.images[which], self.rng.device)
            place = (which, slice(None), *window)
            part = {name: picture[place] for name, picture in pictures.items()}
            run = _Run(self.job, rng, self.watch, self.progress)
            changed[place] = run.resized(image[place], part, simulate=simulate).result
        edit = self.editor.prepare(image, self.rng, **pictures)
        outcome = _outcome(edit, changed, edit.settle(changed))
        return replace(outcome, truth=image if simulate else None)


def _outcome(edit: Edit, found: Tensor, result: Tensor) -> Outcome:
    saved = from_uint8(to_uint8(result)).to(result)
    errors = edit.error(found), edit.error(saved)
    return Outcome(result, edit.shown, None, *errors, edit.tol, edit.sigma)
