"""Data sets by name: the real numbers, every layout in which they lie about, the download."""

import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cmtool.data import cifar10, mnist, places
from cmtool.data.base import ImageSet
from cmtool.data.catalog import open_data
from cmtool.data.names import DESCRIPTIONS, names
from cmtool.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CMTOOL_OFFLINE", "1")


def pixels(data: ImageSet) -> np.ndarray:
    return data.images(np.arange(len(data)))


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_names_cost_nothing() -> None:
    code = (
        "import sys; from cmtool.data.names import names; names();"
        "print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert names() == ["cifar10", "digits", "imagenet64", "lsun-bedroom", "lsun-cat", "mnist"]
    assert set(names()) == set(DESCRIPTIONS)


# Digits


def test_digits_are_the_published_ones() -> None:
    """Class counts of UCI's test set; the split is fixed; 16 becomes 255, 8 becomes 128."""
    train, test = open_data("digits"), open_data("digits", split="test")
    assert (len(train), len(test)) == (1400, 397)
    assert train.image_shape == test.image_shape == (1, 8, 8)
    labels = np.concatenate([train.labels, test.labels])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    whole = np.concatenate([pixels(train), pixels(test)])
    assert set(np.unique(whole)) == {round(v * 255 / 16 + 1e-9) for v in range(17)}
    levels = np.round(whole / 255 * 16).astype(np.uint8)
    assert levels.sum() == 561_718
    digest = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
    assert sha256(levels) == digest
    assert train.classes == tuple("0123456789")
    assert (train.flip_ok, train.in_memory, train.num_classes) == (False, True, 10)


def test_digits_equal_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    held_out = open_data("digits", split="test")
    assert np.array_equal(np.round(pixels(held_out)[:, 0] / 255 * 16), digits.images[-397:])
    assert np.array_equal(held_out.labels, digits.target[-397:])


def test_facts_tell_what_was_done() -> None:
    assert open_data("digits").facts == {
        "name": "digits",
        "source": "digits.npz",
        "split": "train",
        "images": 1400,
        "classes": 10,
        "image_size": 8,
        "channels": 1,
        "crop": "none",
        "filter": "none",
    }
    resized = open_data("digits", image_size=16, channels=3, crop="center")
    assert resized.image_shape == (3, 16, 16)
    assert (resized.facts["crop"], resized.facts["filter"]) == ("center", "lanczos")
    assert np.array_equal(pixels(resized)[:, 0], pixels(resized)[:, 2])


# The real CIFAR-10 and MNIST


def test_real_cifar10(shared: Path) -> None:
    """The class counts, the first labels and the channel means that everybody normalises with."""
    train = open_data("cifar10", data_dir=shared / "data")
    test = open_data("cifar10", data_dir=shared / "data" / "cifar10", split="test")
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.image_shape == test.image_shape == (3, 32, 32)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    mean = pixels(train).mean((0, 2, 3)) / 255
    assert mean == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=1e-7)
    assert train.flip_ok
    records = np.concatenate(
        [test.labels[:, None].astype(np.uint8), pixels(test).reshape(10_000, -1)], 1
    )
    assert sha256(records) == SHA256_OF_TEST_BATCH_BIN


def test_real_mnist(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMTOOL_DATA", str(shared / "data"))
    train, test = open_data("mnist"), open_data("mnist", split="test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(train.labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842),
        *(5421, 5918, 6265, 5851, 5949),
    ]
    assert pixels(train).mean() / 255 == pytest.approx(0.1306604762738429, abs=1e-12)
    assert pixels(train).std() / 255 == pytest.approx(0.3081078, abs=1e-7)
    assert not train.flip_ok


# Of the bytes of test_batch.bin in the published binary archive, rebuilt from what was read.
SHA256_OF_TEST_BATCH_BIN = "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"


# Layouts, with small sets of the same form


PLANES = RNG.integers(0, 256, (60, 3072), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 60)
BATCHES = {f"data_batch_{i + 1}": slice(10 * i, 10 * i + 10) for i in range(5)}
BATCHES["test_batch"] = slice(50, 60)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train": 50, "test": 10}
    monkeypatch.setattr(cifar10, "EXPECTED", replace(cifar10.EXPECTED, counts=counts))
    monkeypatch.setattr(mnist, "EXPECTED", replace(mnist.EXPECTED, counts=counts))


def python2_pickle(part: slice) -> bytes:
    """The very opcodes of the published batches, which python 2 wrote."""
    raw, labels = PLANES[part].tobytes(), LABELS[part]
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
        + b"U\x06labelsq\x04]q\x05("
        + b"".join(b"K" + bytes([label]) for label in labels)
        + b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07"
        + b"cnumpy\nndarray\nq\x08K\x00\x85q\t"
        + b"U\x01bq\n\x87Rq\x0b(K\x01K"
        + bytes([len(labels)])
        + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0cU\x02u1q\rK\x00K\x01\x87Rq\x0e(K\x03U\x01|q\x0fNNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(raw))
        + raw
        + b"tbU\tfilenamesq\x10]q\x11U\x05a.pngq\x12au."
    )


def python3_pickle(part: slice, protocol: int) -> bytes:
    batch = {b"labels": LABELS[part].tolist(), b"data": PLANES[part], b"filenames": [b"a.png"]}
    return pickle.dumps(batch, protocol)


def records(part: slice) -> bytes:
    return np.concatenate([LABELS[part, None].astype(np.uint8), PLANES[part]], axis=1).tobytes()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def cifar_layout(root: Path, layout: str) -> None:
    python = {name: python2_pickle(part) for name, part in BATCHES.items()}
    binary = {f"{name}.bin": records(part) for name, part in BATCHES.items()}
    extra = {"readme.html": b"<html>", "batches.meta": b"not a pickle"}
    match layout:
        case "python folder":
            write_all(root / "cifar-10-batches-py", python | extra)
        case "python files":
            write_all(root, python | extra)
        case "python files in a named folder":
            write_all(root / "data" / "cifar10", python)
        case "binary folder":
            write_all(root / "cifar-10-batches-bin", binary | extra)
        case "binary files":
            write_all(root / "cifar10", binary)
        case "python archive":
            files = {f"cifar-10-batches-py/{name}": body for name, body in (python | extra).items()}
            write_tar(root / "cifar-10-python.tar.gz", files)
        case "binary archive":
            files = {
                f"cifar-10-batches-bin/{name}": body for name, body in (binary | extra).items()
            }
            write_tar(root / "cifar10" / "cifar-10-binary.tar.gz", files)
        case "npz shards":
            (root / "cifar10").mkdir(parents=True)
            images = PLANES.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for name, part in [
                ("train_0", slice(0, 20)),
                ("train_1", slice(20, 50)),
                ("test", slice(50, 60)),
            ]:
                np.savez_compressed(
                    root / "cifar10" / name, images=images[part], labels=LABELS[part]
                )
        case _:
            protocol = int(layout[-1])
            files = {name: python3_pickle(part, protocol) for name, part in BATCHES.items()}
            write_all(root / "cifar-10-batches-py", files)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("found_by", ["--data-dir", "CMTOOL_DATA", "cache"])
@pytest.mark.parametrize(
    "layout",
    [
        "python folder",
        "python files",
        "python files in a named folder",
        "binary folder",
        "binary files",
        "python archive",
        "binary archive",
        "npz shards",
        "python 3 pickles of protocol 3",
        "python 3 pickles of protocol 4",
    ],
)
def test_cifar10_in_every_layout(
    layout: str, found_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cache" if found_by == "cache" else tmp_path / "elsewhere"
    root.mkdir()
    cifar_layout(root, layout)
    if found_by == "CMTOOL_DATA":
        monkeypatch.setenv("CMTOOL_DATA", str(root))
    data_dir = root if found_by == "--data-dir" else None
    train = open_data("cifar10", data_dir=data_dir)
    test = open_data("cifar10", data_dir=data_dir, split="test")
    assert np.array_equal(pixels(train).reshape(50, -1), PLANES[:50])
    assert np.array_equal(pixels(test).reshape(10, -1), PLANES[50:])
    assert train.labels.tolist() == LABELS[:50].tolist()
    assert test.labels.tolist() == LABELS[50:].tolist()


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


SMALL_MNIST = RNG.integers(0, 256, (60, 28, 28), dtype=np.uint8)


def mnist_files() -> dict[str, bytes]:
    return {
        "train-images-idx3-ubyte": idx(SMALL_MNIST[:50]),
        "train-labels-idx1-ubyte": idx(LABELS[:50]),
        "t10k-images-idx3-ubyte": idx(SMALL_MNIST[50:]),
        "t10k-labels-idx1-ubyte": idx(LABELS[50:]),
    }


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "folder", ["MNIST/raw", "mnist", "raw", "", "data/mnist", "data/MNIST/raw"]
)
@pytest.mark.parametrize("form", ["plain", "gz", "dots"])
def test_mnist_in_every_layout(folder: str, form: str, tmp_path: Path) -> None:
    files = mnist_files()
    if form == "gz":
        files = {f"{name}.gz": gzip.compress(body) for name, body in files.items()}
    if form == "dots":
        files = {name.replace("-idx", ".idx"): body for name, body in files.items()}
    write_all(tmp_path / "data" / folder, files)
    for split, part in [("train", slice(0, 50)), ("test", slice(50, 60))]:
        data = open_data("mnist", data_dir=tmp_path / "data", split=split)
        assert np.array_equal(pixels(data)[:, 0], SMALL_MNIST[part])
        assert data.labels.tolist() == LABELS[part].tolist()


@pytest.mark.usefixtures("small")
def test_keras_mnist(tmp_path: Path) -> None:
    arrays = {"x_train": SMALL_MNIST[:50], "y_train": LABELS[:50].astype(np.uint8)}
    np.savez(tmp_path / "mnist.npz", **arrays, x_test=SMALL_MNIST[50:], y_test=LABELS[50:])
    data = open_data("mnist", data_dir=tmp_path, split="test")
    assert np.array_equal(pixels(data)[:, 0], SMALL_MNIST[50:])


# Not found, and the download


@pytest.mark.parametrize("name", ["cifar10", "mnist", "imagenet64", "lsun-bedroom", "lsun-cat"])
def test_one_error_names_the_places_and_what_to_put_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setenv("CMTOOL_DATA", str(tmp_path / "env"))
    with pytest.raises(DataError) as caught:
        open_data(name, data_dir=mine)
    first, *looked = caught.value.message.splitlines()
    assert first.startswith(f"data set '{name}' was not found and ")
    for root in (mine, tmp_path / "env", tmp_path / "cache"):
        assert f"  {root}" in looked
    put = {
        "cifar10": f"put cifar-10-binary.tar.gz ({cifar10.URL})",
        "mnist": "put train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz",
        "imagenet64": "--data-dir DIR, where DIR/train/n01440764",
        "lsun-bedroom": "--data-dir DIR, where DIR/bedroom_train_lmdb/data.mdb",
        "lsun-cat": "--data-dir DIR, where DIR/cat_train_lmdb/data.mdb",
    }
    assert caught.value.hint.startswith(put[name])


@pytest.mark.parametrize(
    ("system", "tail"), [("linux", ".cache/cmtool"), ("darwin", "Library/Caches/cmtool")]
)
def test_the_cache_is_where_the_platform_wants_it(
    system: str, tail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("CMTOOL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", system)
    assert places.cache_dir() == Path.home() / tail


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server on this machine for the folder `site`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.delenv("CMTOOL_OFFLINE")
    (tmp_path / "site").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


@pytest.mark.usefixtures("small")
def test_cifar10_is_downloaded_once_and_checked(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar_layout(tmp_path / "site", "binary archive")
    archive = tmp_path / "site" / "cifar10" / "cifar-10-binary.tar.gz"
    digest = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "URL", f"{server}cifar10/cifar-10-binary.tar.gz")
    monkeypatch.setattr(cifar10, "MD5", digest)
    said: list[str] = []
    data = open_data("cifar10", say=said.append)
    assert np.array_equal(pixels(data).reshape(50, -1), PLANES[:50])
    assert said[-1].startswith(f"downloading {server}cifar10/cifar-10-binary.tar.gz: 0.")
    assert os.listdir(tmp_path / "cache" / "cifar10") == ["cifar-10-binary.tar.gz"]
    archive.unlink()
    assert len(open_data("cifar10", split="test", say=said.append)) == 10


@pytest.mark.usefixtures("small")
def test_mnist_is_downloaded(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {f"{name}.gz": gzip.compress(body) for name, body in mnist_files().items()}
    write_all(tmp_path / "site", packed)
    monkeypatch.setattr(mnist, "URL", server)
    digests = {name: hashlib.md5(body).hexdigest() for name, body in packed.items()}
    monkeypatch.setattr(mnist, "MD5", digests)
    for split, part in [("train", slice(0, 50)), ("test", slice(50, 60))]:
        assert np.array_equal(pixels(open_data("mnist", split=split))[:, 0], SMALL_MNIST[part])


def test_a_download_with_a_wrong_checksum_is_thrown_away(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_all(tmp_path / "site", {"cifar.tar.gz": b"cut"})
    monkeypatch.setattr(cifar10, "URL", f"{server}cifar.tar.gz")
    with pytest.raises(DataError) as caught:
        open_data("cifar10")
    found = hashlib.md5(b"cut").hexdigest()
    assert (
        f"cifar.tar.gz came with md5 {found}, not {cifar10.MD5}; looked in" in caught.value.message
    )
    assert os.listdir(tmp_path / "cache" / "cifar10") == []


def test_a_page_that_is_gone(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "URL", f"{server}gone.tar.gz")
    with pytest.raises(DataError, match=r"gone\.tar\.gz could not be downloaded: HTTP Error 404"):
        open_data("cifar10")


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CMTOOL_OFFLINE")
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    with pytest.raises(DataError, match=r"could not be downloaded: .*refused.*; looked in"):
        open_data("cifar10")


def test_offline_means_offline() -> None:
    with pytest.raises(DataError, match=r"downloads are off \(CMTOOL_OFFLINE\); looked in"):
        open_data("mnist")


# What is damaged or something else


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("cifar10", {"data_batch_1.bin": b"1234"}, "cannot read '{root}/data_batch_2.bin': "),
        (
            "cifar10",
            {f"data_batch_{i}.bin": b"1234" for i in range(1, 6)},
            "'{root}/data_batch_1.bin' is 4 bytes long, not a multiple of 3073",
        ),
        (
            "cifar10",
            {f"data_batch_{i}.bin": records(slice(0, 9)) for i in range(1, 6)},
            "'{root}' holds 45 images of 32x32x3 and 45 labels, "
            "the train split of cifar10 is 50 images of 32x32x3",
        ),
        (
            "cifar10",
            {f"data_batch_{i}.bin": b"\x0b" + records(slice(0, 10))[1:] for i in range(1, 6)},
            "'{root}' holds labels outside 0 .. 9",
        ),
        (
            "cifar10",
            {"cifar-10-python.tar.gz": b"no"},
            "cannot read '{root}/cifar-10-python.tar.gz': ",
        ),
        ("cifar10", {"train.npz": b"PK\x03\x04 cut"}, "cannot read '{root}/train.npz': "),
        ("cifar10", {"train.npz": b""}, "cannot read '{root}/train.npz': "),
        (
            "mnist",
            {"train-images-idx3-ubyte": b"\0\0\x0d\x03", "train-labels-idx1-ubyte": b""},
            "'{root}/train-images-idx3-ubyte' is not an idx file of bytes",
        ),
        (
            "mnist",
            mnist_files() | {"train-images-idx3-ubyte": idx(SMALL_MNIST[:50])[:-7]},
            "'{root}/train-images-idx3-ubyte' is cut: 39193 bytes for the shape 50x28x28",
        ),
        (
            "mnist",
            mnist_files() | {"train-images-idx3-ubyte": b"\0\0\x08\x03" + b"\xff" * 12},
            "'{root}/train-images-idx3-ubyte' is cut: 0 bytes for the shape "
            "4294967295x4294967295x4294967295",
        ),
        (
            "mnist",
            mnist_files() | {"train-images-idx3-ubyte": idx(SMALL_MNIST[:50, :20])},
            "'{root}/train-images-idx3-ubyte' holds 50 images of 20x28x1 and 50 labels, "
            "the train split of mnist is 50 images of 28x28x1",
        ),
        (
            "mnist",
            {"train-images-idx3-ubyte.gz": b"\x1f\x8b cut", "train-labels-idx1-ubyte.gz": b""},
            "cannot read '{root}/train-images-idx3-ubyte.gz': ",
        ),
        ("mnist", {"mnist.npz": b"hello"}, "cannot read '{root}/mnist.npz': "),
    ],
)
def test_damaged_copies(name: str, files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_all(root, files)
    with pytest.raises(DataError) as caught:
        open_data(name, data_dir=root)
    assert caught.value.message.startswith(message.format(root=root))


def test_npz_of_something_else(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", arr_0=np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"train\.npz' has no array 'images', it has arr_0$"):
        open_data("cifar10", data_dir=tmp_path)
    np.savez(tmp_path / "train.npz", images=np.zeros((3, 32, 32, 3)), labels=np.zeros(3, int))
    with pytest.raises(DataError, match="holds float64 images and int64 labels, not bytes"):
        open_data("cifar10", data_dir=tmp_path)
    np.savez(tmp_path / "train.npz", images=np.array([{}], object), labels=np.zeros(3, int))
    with pytest.raises(DataError, match=r"cannot read .* Object arrays cannot be loaded"):
        open_data("cifar10", data_dir=tmp_path)


def test_half_of_cifar10_is_never_trained_on(tmp_path: Path) -> None:
    np.savez(tmp_path / "train_0.npz", images=np.zeros((4, 32, 32, 3), np.uint8), labels=LABELS[:4])
    with pytest.raises(
        DataError, match=r"holds 4 images of 32x32x3 .* is 50000 images of 32x32x3$"
    ):
        open_data("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("spec", "options", "message", "hint"),
    [
        (
            "cifar",
            {},
            "no data set, folder or zip 'cifar' (did you mean 'cifar10'?)",
            "a name (cifar",
        ),
        ("", {}, "no data set, folder or zip ''", "a name (cifar10, digits"),
        ("no/where", {}, "no data set, folder or zip 'no/where'", "a name (cifar10"),
        ("x" * 5000, {}, f"cannot read '{'x' * 5000}': file name too long", None),
        ("digits", {"split": "val"}, "split must be 'train' or 'test', got 'val'", None),
        ("digits", {"image_size": 0}, "image size must be 1 .. 4096, got '0'", "--set data.image"),
        (
            "digits",
            {"channels": 4},
            "images have 1 or 3 channels, got '4'",
            "--set data.channels=3",
        ),
        (
            "digits",
            {"crop": "dariwal"},
            "unknown crop 'dariwal' (did you mean 'dhariwal'?)",
            "one of",
        ),
        (
            "digits",
            {"image_size": 16, "crop": "none"},
            "an image of 'digits' is 8x8, not 16x16",
            "ch",
        ),
        ("mnist", {"data_dir": Path("gone")}, "--data-dir 'gone' is not a folder", "the folder"),
    ],
)
def test_bad_requests(
    spec: str, options: dict[str, object], message: str, hint: str | None
) -> None:
    with pytest.raises(DataError) as caught:
        open_data(spec, **options)
    assert caught.value.message == message
    assert caught.value.hint is None if hint is None else caught.value.hint.startswith(hint)
