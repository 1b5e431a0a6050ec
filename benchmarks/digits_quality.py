"""What a classifier says of the demo's digits: are all ten there, and how sure is it?

    python benchmarks/digits_quality.py [runs/demo]

An SVM is trained on the real training digits and their four one-pixel shifts and checked on the
held-out ones; then 1,000 samples of each kind are put before it. Needs scikit-learn (extra `dev`).
"""

import sys
from pathlib import Path

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


def main(run: Path) -> None:
    """Prints a table."""
    held_out = open_data("digits", split="test")
    held_out_pixels = held_out.images(np.arange(len(held_out)))
    reference = Moments.of(pixel_features(held_out_pixels))
    model = classifier()
    kinds = {
        "teacher": (run / "teacher", 35),
        "one step": (run / "student", 1),
        "two steps": (run / "student", 2),
    }
    pixels = {"held-out digits": held_out_pixels}
    for name, (path, steps) in kinds.items():
        pixels[name] = images.to_uint8(cmtool.sample(path, SAMPLES, steps=steps)).numpy()
    print(f"{'':18}{'FD-pixel':>9}{'sure':>8}   share of 0 .. 9 in %")
    for name, x in pixels.items():
        features = pixel_features(x)
        probabilities = model.predict_proba(features)
        distance = frechet_distance(Moments.of(features), reference)
        sure = (probabilities.max(1) > 0.9).mean()
        shares = np.bincount(probabilities.argmax(1), minlength=10) / len(x) * 100
        print(f"{name:18}{distance:9.2f}{sure:8.3f}   " + " ".join(f"{s:.1f}" for s in shares))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
