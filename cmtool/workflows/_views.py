"""Pictures that explain: the same seeds drawn in several ways, and the path to an image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmtool import images
from cmtool.denoiser import Denoiser
from cmtool.errors import DataError, RecipeError
from cmtool.workflows._draw import Plan, chunks, default_batch, draw
from cmtool.workflows._output import check_parents

Pixels = NDArray[np.uint8]

LONGEST_LABEL = 12
"""Letters of a class's name over a column."""


@dataclass(frozen=True)
class Frame:
    """One evaluation of the network on the way to n images; at the end noise level 0 and the
    images themselves, twice. `noisy` is scaled down to the images' own range."""

    sigma: float
    noisy: Pixels
    estimate: Pixels


def check_picture(out: Path, suffixes: Sequence[str], *, overwrite: bool) -> None:
    """Checks where a picture is to go before it is drawn.

    Raises:
        DataError: It is no such file, or is there already.
    """
    if out.suffix.lower() not in suffixes or out.is_dir():
        named = Path("picture") if out.name in ("", "..") else out
        hint = " or ".join(f"--out {named.with_suffix(suffix)}" for suffix in suffixes)
        raise DataError(f"cannot write this picture to '{out}'", hint)
    if out.exists() and not overwrite:
        raise DataError(f"'{out}' is there already", "--overwrite, or another --out")
    check_parents(out)


def parse_variants(text: str) -> list[tuple[Path | None, int | None]]:
    """`MODEL@STEPS,...` to models and steps; either may be left out.

    Raises:
        RecipeError: One names neither, or steps that are no whole number.

    Example:
        >>> parse_variants("@1,@2,a.pt")
        [(None, 1), (None, 2), (PosixPath('a.pt'), None)]
    """
    found: list[tuple[Path | None, int | None]] = []
    for part in text.split(","):
        model, _, steps = part.strip().rpartition("@") if "@" in part else (part.strip(), "", "")
        whole = not steps or (steps.isascii() and steps.isdigit() and int(steps) > 0)
        if not whole or not (model or steps):
            raise RecipeError(
                f"--compare: '{part.strip()}' is not MODEL, MODEL@STEPS or @STEPS",
                "--compare @1,@2,runs/digits-dsm@35",
            )
        found.append((Path(model) if model else None, int(steps) if steps else None))
    return found


def draw_pixels(
    model: Denoiser, plan: Plan, n: int, seed: int, batch_size: int | None
) -> tuple[Pixels, list[str]]:
    """Images (n, H, W, C) and the names of their classes, none for a model without."""
    parts, names = [], []
    for numbers in chunks(n, batch_size or default_batch(model)):
        x, labels = draw(model, plan, numbers, seed)
        parts.append(_pixels(x))
        names += [] if labels is None else [model.classes[i] for i in labels.tolist()]
    return np.concatenate(parts), names


def save_comparison(path: Path, rows: Mapping[str, Pixels], names: list[str], seed: int) -> None:
    """A row for each way, a column for each image, under its class.

    Raises:
        DataError: The file cannot be written.
    """
    n = len(next(iter(rows.values())))
    sheet = images.labelled_grid(
        {f"seed {seed}": np.concatenate(list(rows.values()))},
        n,
        row_labels=list(rows),
        column_labels=[name[:LONGEST_LABEL] for name in names],
    )
    images.save_png(path, sheet)


def frames_of(
    model: Denoiser, plan: Plan, n: int, seed: int, batch_size: int | None
) -> list[Frame]:
    """The path to images 0 .. n - 1, one frame for each noise level that the network sees."""
    parts: list[list[Frame]] = []
    for numbers in chunks(n, batch_size or default_batch(model)):
        found: list[Frame] = []

        def watch(y: Tensor, sigma: Tensor, x0_hat: Tensor, found: list[Frame] = found) -> None:
            level = float(sigma[0])
            scaled = y / math.hypot(1, level / model.precond.sigma_data)
            if found and math.isclose(found[-1].sigma, level, rel_tol=1e-6):
                found.pop()  # Heun's second look at a level is the next step's first.
            found.append(Frame(level, _pixels(scaled.cpu()), _pixels(x0_hat.cpu())))

        last = _pixels(draw(model, plan, numbers, seed, watch=watch)[0])
        parts.append([*found, Frame(0.0, last, last)])
    return [
        Frame(
            same[0].sigma,
            np.concatenate([frame.noisy for frame in same]),
            np.concatenate([frame.estimate for frame in same]),
        )
        for same in zip(*parts, strict=True)
    ]


def save_path(path: Path, frames: Sequence[Frame]) -> None:
    """A GIF of noisy images beside estimates, or a strip: two rows for each image.

    Raises:
        DataError: The file cannot be written.
    """
    if path.suffix.lower() == ".gif":
        columns = math.ceil(math.sqrt(len(frames[0].noisy)))
        sheets = [
            images.labelled_grid({f"noise {f.sigma:.3g}": f.noisy, "estimate": f.estimate}, columns)
            for f in frames
        ]
        width = max(sheet.shape[1] for sheet in sheets)
        sheets = [
            np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255)
            for s in sheets
        ]
        shown = max(100, 2000 // len(frames))
        images.save_gif(path, sheets, [shown] * (len(frames) - 1) + [2000])
        return
    rows = {}
    for i in range(len(frames[0].noisy)):
        rows[f"{i} noisy"] = np.stack([frame.noisy[i] for frame in frames])
        rows[f"{i} estimate"] = np.stack([frame.estimate[i] for frame in frames])
    sheet = images.labelled_grid(
        {"noise level": np.concatenate(list(rows.values()))},
        len(frames),
        row_labels=list(rows),
        column_labels=[f"{frame.sigma:.3g}" for frame in frames],
    )
    images.save_png(path, sheet)


def _pixels(x: Tensor) -> Pixels:
    pixels: Pixels = images.to_uint8(x.to(torch.float32)).permute(0, 2, 3, 1).numpy()
    return pixels
