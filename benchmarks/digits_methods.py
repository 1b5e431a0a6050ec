"""Every method on digits: the same teacher, the same seconds, one table.

    python benchmarks/digits_methods.py TEACHER [SECONDS] [METHOD ...]

Each recipe digits/METHOD gets as many steps as its measured speed allows in SECONDS of training;
a warm-up of the tangent takes a quarter of them, as in the recipes.
Methods that learn from data alone start from the teacher's weights too, as the released code of
most of them does. FD-pixel is measured as in the demo, 1,000 samples to the held-out digits.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from equal_time import seconds_a_step

import cmtool
from cmtool import images, registry
from cmtool.data.catalog import open_data
from cmtool.metrics.frechet import Moments, frechet_distance, pixel_features
from cmtool.workflows import distill, train
from cmtool.workflows.fit import Job, Listeners, Prepared, fit

SAMPLES = 1000


def plan(method: str, teacher: Path, out: Path, *overrides: str) -> Prepared:
    """The run of a method's recipe."""
    job = Job(f"digits/{method}", overrides=overrides, out=out, overwrite=True)
    if registry.load("losses", method).needs_teacher_model:
        return distill.plan(job, teacher, {}, Listeners())
    return train.plan(job, teacher, {}, Listeners())


def main(teacher: Path, budget: float, methods: list[str]) -> None:
    """Prints a row for each method as it ends."""
    held_out = open_data("digits", split="test")
    reference = Moments.of(pixel_features(held_out.images(np.arange(len(held_out)))))

    def distances(model: Path, nfes: tuple[int, ...]) -> str:
        found = []
        for nfe in nfes:
            pixels = images.to_uint8(cmtool.sample(model, SAMPLES, steps=nfe)).numpy()
            found.append(frechet_distance(Moments.of(pixel_features(pixels)), reference))
        return " | ".join(f"{distance:.2f}" for distance in found)

    print(f"teacher, 35 evaluations: {distances(teacher, (35,))}")
    print("| method | steps | seconds | FD-pixel 1 step | 2 steps | 4 steps |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            out = Path(folder) / method
            speed = seconds_a_step(plan(method, teacher, out), time.perf_counter)
            steps = max(1, round(budget / speed))
            began = time.perf_counter()
            keys = [f"train.steps={steps}"]
            if hasattr(registry.load("losses", method), "tangent_warmup"):
                keys.append(f"loss.tangent_warmup={steps // 4}")
            fit(plan(method, teacher, out, *keys), Listeners())
            took = time.perf_counter() - began
            print(
                f"| `{method}` | {steps} | {took:.0f} | {distances(out, (1, 2, 4))} |", flush=True
            )


if __name__ == "__main__":
    chosen = sys.argv[3:] or [m for m in registry.names("losses") if m != "dsm"]
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 120.0, chosen)
