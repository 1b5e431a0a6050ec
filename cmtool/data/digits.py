"""The 8x8 handwritten digits inside the package; DIGITS.txt tells their source and licence."""

from pathlib import Path

import numpy as np

from cmtool.data._arrays import Expected, Raw, npz_arrays

CLASSES = tuple("0123456789")
TEST_IMAGES = 397
EXPECTED = Expected(
    "digits", {"train": 1797 - TEST_IMAGES, "test": TEST_IMAGES}, (8, 8, 1), len(CLASSES)
)


def load(split: str) -> Raw:
    """Images (N, 8, 8, 1), round(255 v / 16) of v in 0 .. 16, labels; the last 397 are `test`."""
    path = Path(__file__).with_name("digits.npz")
    levels, labels = npz_arrays(path, "images", "labels")
    part = slice(-TEST_IMAGES, None) if split == "test" else slice(0, -TEST_IMAGES)
    images = ((levels[part].astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    return EXPECTED.checked(images, labels[part], split, path)
