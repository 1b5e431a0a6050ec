"""How near pictures come to the truth under the operators of deblur, mri, ct and compressed.

    python benchmarks/inverse_operators.py [MODEL]

Prints a table in Markdown of two photographs of scikit-image at the size of the model's images
(32x32 without a model): PSNR in dB of what was shown, of the least picture that agrees with the
measurement, A^+ y, and of the model's result (18 noise levels; of a diffusion model 5 evaluations
each), then the measurement error ||A x - y|| / ||y|| of that result before and after rounding to 8
bits. Needs scikit-image (extra `dev`) and deepinv (extra `inverse`).
"""

import sys

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

import cmtool
from cmtool import registry
from cmtool.denoiser import Denoiser
from cmtool.images import from_uint8, to_uint8
from cmtool.rng import SeedRng
from cmtool.workflows._edit_job import Wish, make_job
from cmtool.workflows._edit_run import run_job

PHOTOS = ("astronaut", "cat")
ROWS = {
    "compressed, ratio 0.25": ("compressed", {"ratio": 0.25}),
    "compressed, ratio 0.5": ("compressed", {"ratio": 0.5}),
    "mri, 1 row in 4": ("mri", {}),
    "ct, 12 views": ("ct", {"views": 12}),
    "ct, 24 views": ("ct", {"views": 24}),
    "deblur, gaussian:1": ("deblur", {"kernel": "gaussian:1"}),
    "deblur, gaussian:2": ("deblur", {"kernel": "gaussian:2"}),
    "deblur, motion:9,30": ("deblur", {"kernel": "motion:9,30"}),
}


def photo(name: str, side: int) -> Tensor:
    """The middle square of a photograph, small: (1, 3, side, side) in [-1, 1]."""
    picture = Image.fromarray(getattr(skimage.data, name)())
    edge = min(picture.size)
    left, top = ((length - edge) // 2 for length in picture.size)
    small = picture.crop((left, top, left + edge, top + edge)).resize((side, side), Image.LANCZOS)
    return from_uint8(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None]).double()


def psnr(x: Tensor, truth: Tensor) -> str:
    """In dB, of the saved picture."""
    saved = from_uint8(to_uint8(x)).to(truth)
    return f"{float(10 * torch.log10(4 / (saved - truth).square().mean())):.1f}"


def measured(row: str, truth: Tensor, model: Denoiser | None) -> list[str]:
    """The cells of one picture."""
    name, options = ROWS[row]
    editor = registry.load("editors", name)(**options)
    given = editor.degrade(truth, SeedRng(1, [0]))
    if not editor.degrades:  # It is a file, then.
        given = from_uint8(to_uint8(given)).to(truth)
    edit = editor.prepare(given, SeedRng(0, [0]))
    least = edit.settle(edit.project(torch.zeros_like(edit.shown)))
    cells = [psnr(edit.shown, truth), psnr(least, truth)]
    if model is None:
        return cells
    inner = 5 if model.kind == "diffusion" else None
    job = make_job(model, editor, Wish(18, inner_steps=inner))
    done = run_job(job, given, {}, SeedRng(0, [0]))
    errors = (edit.error(x.to(truth)) for x in (done.result, from_uint8(to_uint8(done.result))))
    return [*cells, psnr(done.result, truth), *(f"{float(e):.4f}" for e in errors if e is not None)]


def main(path: str | None) -> None:
    """Prints the table."""
    model = None if path is None else cmtool.load(path, device="cpu")
    side = 32 if model is None else model.image_shape[-1]
    columns = ["", "shown", "without a model", "with the model", "error before", "once saved"]
    columns = columns[: 3 if model is None else 6]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    photos = [photo(name, side) for name in PHOTOS]
    for row in ROWS:
        cells = zip(*(measured(row, truth, model) for truth in photos), strict=True)
        print(f"| {row} | " + " | ".join(" / ".join(pair) for pair in cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
