"""The demo: train a teacher on real digits, distil it, draw, compare; minutes on two cores.

    python recipes/digits/demo.py [OUT]

It types the commands that a user would, then puts one step, two steps and the teacher side by side
for the same seeds and measures FD-pixel: the Frechet distance of the 64 pixel values (in [0, 1]) to
the 397 held-out digits, which neither training has seen. Ctrl-C saves; the same command goes on.
"""

import sys
import time
from pathlib import Path

import numpy as np

import cmtool
from cmtool import checkpoint, images
from cmtool.cli import app
from cmtool.data.catalog import open_data
from cmtool.metrics.frechet import Moments, frechet_distance, pixel_features

SAMPLES, SHOWN, COLUMNS = 1000, 64, 8


def main(out: Path) -> None:
    """Runs everything into `out`."""
    began = time.perf_counter()
    _cmtool("train", "digits/dsm", out=out / "teacher")
    _cmtool("distill", "digits/cd", "--teacher", str(out / "teacher"), out=out / "student")
    trained = time.perf_counter() - began

    teacher, student = cmtool.load(out / "teacher"), cmtool.load(out / "student")
    drawn = {
        "teacher, 35 evaluations": cmtool.sample(teacher, SAMPLES, steps=35),
        "one step": cmtool.sample(student, SAMPLES, steps=1),
        "two steps": cmtool.sample(student, SAMPLES, steps=2),
    }
    pixels = {name: images.to_uint8(x).numpy() for name, x in drawn.items()}

    real, held_out = open_data("digits"), open_data("digits", split="test")
    reference = Moments.of(pixel_features(held_out.images(np.arange(len(held_out)))))
    pixels = {"real digits": real.images(np.arange(SAMPLES)), **pixels}
    print(f"\n{'':26}FD-pixel to {len(held_out)} held-out digits ({SAMPLES} images each)")
    for name, x in pixels.items():
        distance = frechet_distance(Moments.of(pixel_features(x)), reference)
        print(f"{name:26}{distance:.2f}")

    panels = {name: x[:SHOWN].transpose(0, 2, 3, 1) for name, x in pixels.items()}
    images.save_png(out / "demo.png", images.labelled_grid(panels, COLUMNS))
    print(f"\ntrained for {trained / 60:.1f} minutes this time; look at {out / 'demo.png'}")


def _cmtool(*words: str, out: Path) -> None:
    """Runs a command, which ends the program if it fails; one that was stopped before goes on."""
    begun = checkpoint.latest(out) is not None
    command = [*words, "--out", str(out), *["--resume"] * begun]
    print("$ cmtool", *command, flush=True)
    app(command, standalone_mode=False)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
