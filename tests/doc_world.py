"""What the commands of the pages find in their folder: small models, pictures and data sets."""

import gzip
import os
import pickle
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from cli_world import cmtool

SIDE = 66
"""Of the small photographs, about."""
COUNTS = {"train": 200, "test": 40}
TINY = (
    *("--set", "network.width=16", "--set", "network.blocks=1"),
    *("--set", "network.head_channels=16"),
)
SHORT = ("--max-steps", "2", "--batch-size", "4", "--device", "cpu", "--precision", "no")


def must(*words: str) -> None:
    """Runs a command that has to work."""
    done = cmtool(*words)
    assert done.exit_code == 0, f"{words}\n{done.stderr}{done.exception!r}"


def make(folder: Path) -> None:
    """Fills a folder; `copy` gives each page its own.

    data/ is what $CMTOOL_DATA names. The models have done two steps of training, on noise.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CMTOOL_DATA", str(folder / "data"))
        small_grids_and_sets(patch)
        data_sets()
        pictures()
        models()


def small_grids_and_sets(patch: pytest.MonkeyPatch) -> None:
    """A data set of known name may be small, and a run ends with a small grid of samples."""
    from cmtool.data import cifar10, mnist
    from cmtool.workflows import fit

    for module in (cifar10, mnist):
        patch.setattr(module, "EXPECTED", replace(module.EXPECTED, counts=COUNTS))
    patch.setattr(fit, "GRID_ROWS", 1)
    patch.setattr(fit, "GRID_COLUMNS", 2)


def models() -> None:
    """runs/cifar10-dsm, runs/cifar10-cd, runs/digits-dsm, runs/digits-cd, the last the newest, and
    edm.pt, a teacher that knows no classes."""
    plain = ("--set", "data.conditional=false", "--set", "data.label_dropout=0")
    must("train", "cifar10-cpu/dsm", *TINY, *SHORT, *plain)
    must("export", "pt", "runs/cifar10-dsm", "--out", "edm.pt")
    must("train", "cifar10-cpu/dsm", *TINY, *SHORT, "--overwrite")
    unlabelled = ("--set", "data.label_dropout=0.1")
    must("distill", "cifar10-cpu/cd", "--teacher", "runs/cifar10-dsm", *SHORT, *unlabelled)
    must("train", "digits/dsm", *TINY, *SHORT)
    must("distill", "digits/cd", "--teacher", "runs/digits-dsm", *SHORT)


def pictures() -> None:
    """photo.png (451x300), small.png and tiny.png (parts of it), in.png (128x96), mask.png for that
    one, kernel.png (a blur) and photos/."""
    import numpy as np
    from PIL import Image
    from skimage import data

    cat = Image.fromarray(data.chelsea())
    cat.save("photo.png")
    cat.crop((100, 60, 400, 260)).resize((48, 32)).save("small.png")
    cat.crop((60, 0, 360, 300)).resize((32, 32)).save("tiny.png")
    photo = Image.fromarray(data.astronaut())
    photo.crop((64, 0, 448, 288)).resize((128, 96)).save("in.png")
    hole = np.zeros((96, 128), dtype=np.uint8)
    hole[30:60, 40:80] = 255
    Image.fromarray(hole).save("mask.png")
    Image.fromarray(np.full((3, 3), 255, dtype=np.uint8)).save("kernel.png")
    Path("photos").mkdir()
    for i in range(24):
        corner = (16 * i, 8 * i, 16 * i + 128, 8 * i + 128)
        photo.crop(corner).resize((SIDE + i % 3, SIDE)).save(f"photos/{i:02}.png")


def data_sets() -> None:
    """data/: CIFAR-10 and MNIST in their own formats, of random pixels."""
    import numpy as np

    rng = np.random.default_rng(0)
    folder = Path("data", "cifar-10-batches-py")
    folder.mkdir(parents=True)
    sizes = {f"data_batch_{i}": COUNTS["train"] // 5 for i in range(1, 6)}
    for name, count in (sizes | {"test_batch": COUNTS["test"]}).items():
        batch = {
            b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
            b"labels": [i % 10 for i in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(batch, 4))
    folder = Path("data", "mnist")
    folder.mkdir()
    for prefix, split in (("train", "train"), ("t10k", "test")):
        count = COUNTS[split]
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8).tobytes()
        labels = bytes(i % 10 for i in range(count))
        images = struct.pack(">4I", 0x803, count, 28, 28) + pixels
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        numbers = struct.pack(">2I", 0x801, count) + labels
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(numbers))


def full_sets(folder: Path) -> Path:
    """A folder for other processes, in which the sets have their published sizes: all black."""
    import numpy as np

    if not folder.exists():
        for name, shape, train in (("cifar10", (32, 32, 3), 50_000), ("mnist", (28, 28), 60_000)):
            (folder / name).mkdir(parents=True)
            for split, count in (("train", train), ("test", 10_000)):
                labels = np.arange(count) % 10
                images = np.zeros((count, *shape), dtype=np.uint8)
                np.savez_compressed(folder / name / split, images=images, labels=labels)
    return folder


def copy(world: Path, folder: Path) -> None:
    """Gives a page its own models and pictures; the data sets, and the repository's scripts that
    pages run, are shared."""
    root = Path(__file__).parents[1]
    for path in world.iterdir():
        if path.name == "data":
            os.symlink(path, folder / path.name)
        elif path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copy2(path, folder / path.name)
    for name in ("benchmarks", "tests"):
        os.symlink(root / name, folder / name)
    for name in ("docs", "recipes"):
        shutil.copytree(root / name, folder / name)
