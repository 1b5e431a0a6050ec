"""How good images of CIFAR-10 or MNIST models are: recognised classes and Frechet distances.

    python benchmarks/shipped_figures.py runs/cifar10-cd runs/cifar10-dsm
    python benchmarks/shipped_figures.py runs/mnist-cd runs/mnist-dsm --against test

As many images of each class are drawn, a consistency model's in `--steps`, a diffusion model's in
`--nfe` evaluations, and the table in Markdown tells for each model

- accuracy: the share that a classifier takes for the class that was asked for: ResNet-56 for
  CIFAR-10 ($CMTOOL_SHARED/weights), a small network trained on the spot for MNIST;
- FD-resnet56 or FD-digit-cnn: the Frechet distance of its features to those of real images;
- FD-lite0 (CIFAR-10) or FD-pixel (MNIST): the same in another space, for lite0 to the first 10,000
  images only, since it takes long.

The line "real" measures the other split's real images in the same way; the classifiers saw those
of the training set before. Statistics of real images and the small network are kept in the user's
cache.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from classifiers import CLASSIFIERS

from cmtool.data import places
from cmtool.data.base import ImageSet
from cmtool.data.catalog import open_data
from cmtool.denoiser import Denoiser
from cmtool.images import to_uint8
from cmtool.metrics.features.base import Extractor
from cmtool.metrics.features.catalog import open_features
from cmtool.metrics.frechet import Gaussian, Running, frechet_distance
from cmtool.metrics.references import open_statistics, write_statistics
from cmtool.workflows._draw import chunks, default_batch, draw, guided, labelled, plan_for
from cmtool.workflows.load import load

BATCH = 250
SECOND = {"cifar10": "lite0", "mnist": "pixel"}
AT_MOST = {"lite0": 10_000}
"""Images of the reference for a slow network."""


class Judge:
    """Measures images against the real ones of a data set.

    Args:
        name: "cifar10" or "mnist".
        against: The split whose statistics are the reference.
        count: How many of its images make the reference; None is all.
        second: Whether the distance in a second space is measured too.
    """

    def __init__(self, name: str, against: str, count: int | None, second: bool) -> None:
        self.classifier = CLASSIFIERS[name]()
        self.spaces = [self.classifier]
        if second:
            self.spaces.append(open_features(SECOND[name]))
        self.real = {split: open_data(name, split=split) for split in ("train", "test")}
        self.references = [
            self._reference(space, self.real[against], count) for space in self.spaces
        ]

    def _reference(self, space: Extractor, real: ImageSet, count: int | None) -> Gaussian:
        count = min(count or len(real), AT_MOST.get(space.name, len(real)))
        key = f"{space.name}-{str(space.facts.get('weights', ''))[:8]}"
        name = f"{key}-{real.name}-{real.facts['split']}-{count}.npz"
        path = places.cache_dir() / "figures" / name
        if not path.is_file():
            say(f"statistics of {count} real images: {space.name}")
            running = Running()
            for part in chunks(count, BATCH):
                running.add(space(real.images(np.array(part))).features)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_statistics(path, running.moments(), {"features": space.facts})
        return open_statistics(path).gaussian

    def measure(self, pixels: np.ndarray, labels: np.ndarray) -> list[float]:
        """Accuracy, then a distance for each space, of (N, C, H, W) uint8 and (N,)."""
        right, found = 0, [Running() for _ in self.spaces]
        for part in chunks(len(pixels), BATCH):
            batch = pixels[part.start : part.stop]
            for running, space in zip(found, self.spaces, strict=True):
                ours = space is self.classifier
                said = space(batch, probabilities=ours)
                running.add(said.features)
                if ours:
                    right += int((said.probabilities.argmax(1) == labels[list(part)]).sum())
        pairs = zip(found, self.references, strict=True)
        return [right / len(pixels), *(frechet_distance(f.moments(), r) for f, r in pairs)]


def drawn(
    model: Denoiser, evaluations: int, n: int, args: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray, float]:
    """N images, as many of each class, their labels, and the seconds that took."""
    guidance = args.guidance if model.kind == "diffusion" or args.guide_all else 1.0
    plan = guided(plan_for(model, evaluations), model, guidance)
    plan = labelled(plan, model, None, per_label=n // model.num_classes)
    pixels, labels, start = [], [], time.perf_counter()
    for numbers in chunks(n, default_batch(model)):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            x, label = draw(model, plan, numbers, args.seed)
        pixels.append(to_uint8(x).numpy())
        labels.append(label.numpy())
        if len(pixels) % 20 == 0:
            say(f"  {numbers.stop} of {n} images, {time.perf_counter() - start:.0f} s")
    return np.concatenate(pixels), np.concatenate(labels), time.perf_counter() - start


def say(message: str) -> None:
    """Progress, apart from the table."""
    print(message, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="runs, checkpoints or files")
    parser.add_argument("--data", choices=SECOND, help="default: by the models' channels")
    parser.add_argument("--n", type=int, default=10_000, help="images of each model")
    parser.add_argument("--steps", default="1,2", help="of consistency models, with commas")
    parser.add_argument("--nfe", type=int, default=35, help="of diffusion models")
    parser.add_argument("--nfe-n", type=int, help="images of each diffusion model, default: --n")
    parser.add_argument("--guidance", type=float, default=1.0, help="of diffusion models")
    parser.add_argument("--guide-all", action="store_true", help="of consistency models too")
    parser.add_argument("--weights", default="ema", help="of run directories")
    parser.add_argument("--against", choices=("train", "test"), default="train")
    parser.add_argument("--reference-n", type=int, help="images of the reference, default: all")
    parser.add_argument("--no-second", action="store_true", help="no FD-lite0 or FD-pixel")
    parser.add_argument("--bf16", action="store_true", help="draw in bf16")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    args = arguments()
    models = {path: load(path, weights=args.weights, device="cpu") for path in args.models}
    channels = next(iter(models.values())).image_shape[0]
    name = args.data or ("mnist" if channels == 1 else "cifar10")
    judge = Judge(name, args.against, args.reference_n, not args.no_second)
    titles = [space.title("FD") for space in judge.spaces]
    counts = ", ".join(str(reference.n) for reference in judge.references)
    print(f"against {args.against} images of {name}, for each distance {counts}\n")
    print(f"| model | NFE | images | accuracy | {' | '.join(titles)} | seconds |")
    print("|---|---|---|---|" + "---|" * (len(titles) + 1))

    def row(what: str, nfe: str, n: int, figures: list[float], seconds: str) -> None:
        cells = [f"{figures[0]:.2%}", *(f"{figure:.3f}" for figure in figures[1:])]
        print(f"| {what} | {nfe} | {n} | {' | '.join(cells)} | {seconds} |", flush=True)

    other = "test" if args.against == "train" else "train"
    real = judge.real[other]
    numbers = np.arange(min(args.n, len(real)))
    figures = judge.measure(real.images(numbers), real.labels[numbers])
    row(f"real, {other}", "", len(numbers), figures, "")
    for path, model in models.items():
        diffusion = model.kind == "diffusion"
        n = args.nfe_n or args.n if diffusion else args.n
        for evaluations in [args.nfe] if diffusion else map(int, args.steps.split(",")):
            say(f"{path}: {evaluations} evaluations")
            pixels, labels, seconds = drawn(model, evaluations, n, args)
            figures = judge.measure(pixels, labels)
            row(Path(path).name, str(evaluations), n, figures, f"{seconds:.0f}")


if __name__ == "__main__":
    main()
