"""What a classifier says of drawn digits: are all ten there, and how sure is it?

    python benchmarks/digits_quality.py shipped/digits-teacher shipped/digits
    python benchmarks/digits_quality.py runs/demo/teacher runs/demo/student

An SVM is trained on the real training digits and their four one-pixel shifts and checked on the
held-out ones; then 1,000 samples of each model are put before it: 35 evaluations of a diffusion
model, one and two of a consistency model. Needs scikit-learn (extra `dev`).
"""

import sys

import numpy as np
from sklearn.svm import SVC

import cmtool
from cmtool import images
from cmtool.data.catalog import open_data
from cmtool.metrics.frechet import Moments, frechet_distance, pixel_features

SAMPLES = 1000


def shifted(digits: np.ndarray) -> np.ndarray:
    """Moved by one pixel in four directions, black moving in: (N, 1, 8, 8) -> (4 N, 1, 8, 8)."""
    padded = np.pad(digits, ((0, 0), (0, 0), (1, 1), (1, 1)))
    places = ((0, 1), (2, 1), (1, 0), (1, 2))
    return np.concatenate([padded[:, :, y : y + 8, x : x + 8] for y, x in places])


def classifier() -> SVC:
    """The SVM, and on the way its accuracy."""
    real, held_out = open_data("digits"), open_data("digits", split="test")
    x, test = (d.images(np.arange(len(d))) for d in (real, held_out))
    features = pixel_features(np.concatenate([x, shifted(x)]))
    model = SVC(C=10, gamma=0.256, probability=True, random_state=0)
    model.fit(features, np.tile(real.labels, 5))
    accuracy = model.score(pixel_features(test), held_out.labels)
    print(f"classifier on {len(test)} held-out real digits: {accuracy:.1%}")
    return model


def main(models: list[str]) -> None:
    """Prints a table."""
    held_out = open_data("digits", split="test")
    held_out_pixels = held_out.images(np.arange(len(held_out)))
    reference = Moments.of(pixel_features(held_out_pixels))
    svm = classifier()
    pixels = {"held-out digits": held_out_pixels}
    for path in models:
        model = cmtool.load(path)
        for steps in (35,) if model.kind == "diffusion" else (1, 2):
            drawn = images.to_uint8(cmtool.sample(model, SAMPLES, steps=steps))
            pixels[f"{path}, {steps}"] = drawn.numpy()
    print(f"{'':30}{'FD-pixel':>9}{'sure':>8}   share of 0 .. 9 in %")
    for name, x in pixels.items():
        features = pixel_features(x)
        probabilities = svm.predict_proba(features)
        distance = frechet_distance(Moments.of(features), reference)
        sure = (probabilities.max(1) > 0.9).mean()
        shares = np.bincount(probabilities.argmax(1), minlength=10) / len(x) * 100
        print(f"{name:30}{distance:9.3f}{sure:8.3f}   " + " ".join(f"{s:.1f}" for s in shares))


if __name__ == "__main__":
    main(sys.argv[1:] or ["runs/demo/teacher", "runs/demo/student"])
