"""Folders, zips and lmdbs of images: modes, sizes, classes, splits, and what is wrong with them."""

import contextlib
import io
import json
import os
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmtool import images
from cmtool.data._labels import common_folder
from cmtool.data.base import ImageSet
from cmtool.data.catalog import open_data
from cmtool.errors import DataError

RNG = np.random.default_rng(0)
Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path / "cache"))


def png(
    width: int = 8, height: int = 8, mode: str = "RGB", seed: int = 0, kind: str = "PNG"
) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def write(root: Path, files: Files) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(root)


def write_zip(path: Path, files: Files, how: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def pixels(data: ImageSet) -> np.ndarray:
    return data.images(np.arange(len(data)))


@pytest.fixture(params=["folder", "zip", "stored zip"])
def packed(request: pytest.FixtureRequest, tmp_path: Path):
    """Writes the same files as a folder or a zip and returns the path to give to `open_data`."""

    def make(files: Files) -> str:
        if request.param == "folder":
            return write(tmp_path / "photos", files)
        how = zipfile.ZIP_STORED if request.param == "stored zip" else zipfile.ZIP_DEFLATED
        return write_zip(tmp_path / "photos.zip", files, how)

    return make


# Sizes and modes


def test_sizes_and_modes_mix(packed) -> None:
    deep = io.BytesIO()
    Image.fromarray(RNG.integers(0, 65536, (30, 20), dtype=np.uint16)).save(deep, "PNG")
    modes = ["1", "L", "LA", "P", "RGB", "RGBA"]
    files = {f"{i}_{mode}.png": png(20 + 7 * i, 33 - i, mode) for i, mode in enumerate(modes)}
    files |= {"7.jpg": png(50, 40, "CMYK", kind="JPEG"), "8.GIF": png(9, 9, "P", kind="GIF")}
    files |= {"9.png": deep.getvalue(), "deep/er/10.webp": png(16, 16, kind="WEBP")}
    data = open_data(packed(files), image_size=16)
    assert len(data) == 10
    assert data.image_shape == (3, 16, 16)
    for i, name in enumerate(sorted(files)):
        want = images.with_channels(images.read(files[name], name), 3)
        want = images.dhariwal(want, 16).transpose(2, 0, 1)
        assert np.array_equal(data.images(np.array([i]))[0], want)


def test_equal_squares_need_no_size_and_are_not_touched(packed) -> None:
    files = {f"{i}.png": png(12, 12, seed=i) for i in range(3)}
    data = open_data(packed(files))
    assert data.image_shape == (3, 12, 12)
    for i in range(3):
        want = images.read(files[f"{i}.png"], "").transpose(2, 0, 1)
        assert np.array_equal(pixels(data)[i], want)
    assert data.labels is None
    assert data.num_classes == 0
    assert data.facts["crop"] == data.facts["filter"] == "none"


def test_grey_only_if_every_image_is(packed) -> None:
    grey = {f"{i}.png": png(mode="L", seed=i) for i in range(3)}
    assert open_data(packed(grey)).image_shape == (1, 8, 8)
    mixed = open_data(packed(grey | {"9.png": png()}))
    assert mixed.image_shape == (3, 8, 8)
    assert np.array_equal(mixed.images(np.array([0]))[0, 0], mixed.images(np.array([0]))[0, 2])
    assert open_data(packed(grey | {"9.png": png()}), channels=1).image_shape == (1, 8, 8)
    assert open_data(packed(grey), channels=3).image_shape == (3, 8, 8)


@pytest.mark.parametrize("crop", ["center", "dhariwal", "lsun"])
def test_the_crop_is_the_one_asked_for_and_recorded(crop: str, packed) -> None:
    content = png(50, 41)
    data = open_data(packed({"a.png": content}), image_size=16, crop=crop)
    want = images.CROPS[crop](images.read(content, ""), 16).transpose(2, 0, 1)
    assert np.array_equal(pixels(data)[0], want)
    assert data.facts["crop"] == crop
    assert data.facts["filter"] == images.FILTERS[crop]


def test_facts(packed) -> None:
    where = packed({"a/1.png": png(), "b/2.png": png(), "b/notes.txt": b"x", ".hidden.png": b""})
    assert open_data(where, image_size=16).facts == {
        "name": os.path.basename(where),
        "source": os.path.basename(where),
        "split": "train",
        "images": 2,
        "classes": 2,
        "image_size": 16,
        "channels": 3,
        "crop": "dhariwal",
        "filter": "box+bicubic",
        "ignored_files": 1,
        "broken_files": 0,
    }


def test_texts_are_ignored_with_a_count(packed) -> None:
    said: list[str] = []
    where = packed({"a.png": png(), "readme.txt": b"", "LICENSE": b"", "__MACOSX/a.png": b""})
    assert len(open_data(where, say=said.append)) == 1
    assert said == [f"'{where}': ignored 2 file(s) that are no images"]


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (("00000.png", "00001.png", "grid.png", "labels.txt"), 2),
        (("a/000000.png", "a/grid.png", "b/000000.png", "b/grid.png"), 2),
        (("0000.png", "grid.png", "other/00000.png"), 3),
    ],
)
def test_the_grid_beside_samples_is_none_of_them(names, images, packed) -> None:
    assert len(open_data(packed(dict.fromkeys(names, png(8, 8))))) == images


def test_the_order_is_that_of_the_names(packed) -> None:
    files = {
        name: png(seed=i) for i, name in enumerate(["b/2.png", "a/9.png", "c.png", "a/10.png"])
    }
    data = open_data(packed(files))
    for i, name in enumerate(["a/10.png", "a/9.png", "b/2.png", "c.png"]):
        assert np.array_equal(pixels(data)[i], images.read(files[name], "").transpose(2, 0, 1))


def test_decoding_on_demand_gives_the_same(packed, monkeypatch: pytest.MonkeyPatch) -> None:
    where = packed({f"{i}.png": png(20, 30, seed=i) for i in range(40)})
    held = open_data(where, image_size=8)
    monkeypatch.setattr("cmtool.data.base.MEMORY_SHARE", 0.0)
    said: list[str] = []
    on_demand = open_data(where, image_size=8, say=said.append)
    assert (held.in_memory, on_demand.in_memory) == (True, False)
    assert said == [f"'{where}': 40 images do not fit in memory, decoded as needed"]
    indices = np.array([3, 39, 0, 3])
    assert np.array_equal(on_demand.images(indices), held.images(indices))
    assert np.array_equal(pixels(on_demand), pixels(held))


def test_processes_of_one_machine_share_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = write(tmp_path / "photos", {"a.png": png(8, 8)})
    monkeypatch.setattr("cmtool.data.base.memory_bytes", lambda: 4 * 192)
    assert open_data(where).in_memory
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not open_data(where).in_memory


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", {"1.png": png(), "2.png": png()})
    write(tmp_path / "photos" / "a", {"3.png": png()})
    (tmp_path / "photos" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "a" / "loop").symlink_to(tmp_path / "photos")
    data = open_data(str(tmp_path / "photos"))
    assert len(data) == 3
    assert data.labels.tolist() == [0, 1, 1]


# Classes


def test_classes_are_the_top_folders(packed) -> None:
    names = ["dog/1.png", "cat/1.png", "cat/tabby/2.png", "ant/z.png"]
    data = open_data(packed({name: png() for name in names}))
    assert data.classes == ("ant", "cat", "dog")
    assert data.labels.tolist() == [0, 1, 1, 2]
    assert data.labels.dtype == np.int64


def test_a_folder_around_everything_is_no_class(packed) -> None:
    data = open_data(packed({"set/v1/cat/1.png": png(), "set/v1/dog/1.png": png()}))
    assert data.classes == ("cat", "dog")


@pytest.mark.parametrize("names", [["cat/1.png", "cat/2.png"], ["cat/1.png", "dog/1.png", "3.png"]])
def test_no_classes(names: list[str], packed) -> None:
    assert open_data(packed({name: png() for name in names})).labels is None


def test_dataset_json_beats_folders(packed) -> None:
    """NVIDIA's zips: the folders are only shards, the classes stand in the table."""
    table = {
        "labels": [["00000/img00000000.png", 3], ["00001/img00000001.png", 0], ["gone.png", 4]]
    }
    files = {"00000/img00000000.png": png(), "00001/img00000001.png": png()}
    data = open_data(packed(files | {"dataset.json": json.dumps(table).encode()}))
    assert data.labels.tolist() == [3, 0]
    assert data.classes == ("0", "1", "2", "3", "4")
    data = open_data(packed(files | {"dataset.json": b'{"labels": null}'}))
    assert (data.labels, data.classes) == (None, ())


def test_dataset_json_lies_beside_its_images(packed) -> None:
    table = {"labels": [["a.png", 1], ["b.png", 0]]}
    files = {"set/a.png": png(), "set/b.png": png(), "set/dataset.json": json.dumps(table).encode()}
    assert open_data(packed(files)).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"{", "cannot read '{where}/dataset.json': "),
        (b"[1]", "'{where}/dataset.json' must be {{\"labels\": [[file name, whole number], ...]}}"),
        (b'{"labels": 3}', "'{where}/dataset.json' must be {{\"labels\": "),
        (
            b'{"labels": [["a.png", [0.5, 0.5]]]}',
            "'{where}/dataset.json': a label must be [file name, whole number], "
            "got '['a.png', [0.5, 0.5]]'",
        ),
        (
            b'{"labels": [["a.png", true]]}',
            "'{where}/dataset.json': a label must be [file name, whole",
        ),
        (
            b'{"labels": [["a.png", -1]]}',
            "'{where}/dataset.json': label -1 of 'a.png' is not in 0 .. 999999",
        ),
        (
            b'{"labels": [["a.png", 1000000]]}',
            "'{where}/dataset.json': label 1000000 of 'a.png' is not",
        ),
        (
            b'{"labels": [["a.png", 1]]}',
            "'{where}/dataset.json' has no label for 'b.png' and 0 other images",
        ),
        (b"[" * 200_000, "cannot read '{where}/dataset.json': "),
    ],
)
def test_a_bad_dataset_json(table: bytes, message: str, packed) -> None:
    where = packed({"a.png": png(), "b.png": png(), "dataset.json": table})
    with pytest.raises(DataError) as caught:
        open_data(where)
    assert caught.value.message.startswith(message.format(where=where))


def test_common_folder() -> None:
    assert common_folder(["a/b/c/1.png", "a/b/d/1.png"]) == "a/b/"
    assert common_folder(["a/1.png", "a1/1.png"]) == ""
    assert common_folder(["a/b/1.png", "a/2.png"]) == "a/"
    assert common_folder(["1.png"]) == ""


@pytest.mark.parametrize("content", [b"no image at all", png()[:40], b""])
def test_a_file_that_cannot_be_read_may_be_left_out(content: bytes, packed) -> None:
    with pytest.raises(DataError) as caught:
        open_data(packed({"a.png": content, "b.png": png()}))
    assert str(caught.value.hint).endswith("leave such files out: --set data.skip_broken=true")


# Splits


@pytest.mark.parametrize("test_name", ["test", "val", "Validation"])
def test_splits_are_folders(test_name: str, packed) -> None:
    where = packed(
        {"set/train/a/1.png": png(), "set/train/b/1.png": png(), f"set/{test_name}/a/2.png": png()}
    )
    train = open_data(where)
    assert (len(train), train.classes) == (2, ("a", "b"))
    assert len(open_data(where, split="test")) == 1


def test_a_set_without_splits_has_no_test_images(packed) -> None:
    where = packed({"cat/1.png": png(), "dog/1.png": png()})
    with pytest.raises(DataError) as caught:
        open_data(where, split="test")
    assert caught.value.message == f"'{where}' has no test split"
    assert caught.value.hint == "put the images into sub-folders 'train' and 'test'"


# Broken files


BROKEN = png(30, 30)[:200]


def test_a_broken_file_is_named(packed) -> None:
    where = packed({"a.png": png(30, 30), "b.png": BROKEN})
    with pytest.raises(DataError) as caught:
        open_data(where)
    assert caught.value.message.startswith(f"broken image '{where}/b.png': ")


def test_broken_files_are_skipped_if_asked(packed) -> None:
    said: list[str] = []
    files = {"a/1.png": png(30, 30), "a/2.png": BROKEN, "b/3.png": b"", "b/4.png": png(30, 30)}
    where = packed(files | {"c/5.png": b"text"})
    data = open_data(where, skip_broken=True, say=said.append)
    assert len(data) == 2
    assert (data.labels.tolist(), data.classes) == ([0, 1], ("a", "b"))
    assert data.facts["broken_files"] == 3
    assert said[0].startswith(f"skipped: broken image '{where}/a/2.png': ")
    assert said[1:] == [
        f"skipped: empty image file '{where}/b/3.png'",
        f"skipped: '{where}/c/5.png' is not an image that can be read",
    ]


def test_nothing_but_broken_files(packed) -> None:
    where = packed({"a.png": b"", "b.png": BROKEN})
    with pytest.raises(DataError, match=r"photos.* holds no image that can be read, 2 are broken$"):
        open_data(where, skip_broken=True)


# What is wrong with folders and zips


@pytest.mark.parametrize(
    ("files", "options", "message", "hint"),
    [
        (
            {"a.txt": b"", "b.txt": b"", "c.csv": b"", "d": b""},
            {},
            "'{where}' holds no images: 2 .txt, 1 .csv, 1 nameless",
            "pass a folder or zip of images, or a named",
        ),
        (
            {"a.png": png(40, 30), "b.png": png(20, 20)},
            {},
            "'{where}/a.png' is 40x30, not square",
            "give one size to crop and resize to: --set data.image_size=32",
        ),
        (
            {"a.png": png(20, 20), "b.png": png(30, 30)},
            {},
            "images differ in size: '{where}/a.png' is 20x20, '{where}/b.png' is 30x30",
            "give one size to crop and resize to: --set data.image_size=32",
        ),
        (
            {"a.png": png(20, 20)},
            {"image_size": 16, "crop": "none"},
            "image '{where}/a.png' is 20x20, not 16x16",
            "choose another crop: --set data.crop=center",
        ),
        (
            {"a.png": png(30_000, 1)},
            {"image_size": 64},
            "image '{where}/a.png' is 30000x1, too thin for a crop of 64x64",
            "choose another crop",
        ),
        ({"a.png": b""}, {}, "empty image file '{where}/a.png'", "copy or save it again"),
        ({"a.png": b"text"}, {}, "'{where}/a.png' is not an image that can be read", "give a PNG"),
    ],
)
def test_bad_contents(
    files: Files, options: dict[str, object], message: str, hint: str | None, packed
) -> None:
    where = packed(files)
    with pytest.raises(DataError) as caught:
        open_data(where, **options)
    assert caught.value.message == message.format(where=where)
    assert caught.value.hint is None if hint is None else caught.value.hint.startswith(hint)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"photos' is empty$"):
        open_data(str(tmp_path / "photos"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"hello", "is neither a folder nor a zip of images"),
        ("a.tar", b"hello", "is neither a folder nor a zip of images"),
        ("a.zip", b"hello", "is damaged: it is no zip file"),
        ("a.zip", b"", "is damaged: it is no zip file"),
    ],
)
def test_files_of_another_kind(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_data(str(tmp_path / name))
    assert caught.value.message == f"'{tmp_path / name}' {message}"


def test_damaged_zips_are_never_anything_but_a_data_error(tmp_path: Path) -> None:
    files = {f"{i}.png": png(12, 12, seed=i) for i in range(4)}
    whole = Path(write_zip(tmp_path / "whole.zip", files)).read_bytes()
    rng = np.random.default_rng(0)
    for i in range(120):
        damaged = bytearray(whole if i % 2 else whole[: rng.integers(1, len(whole))])
        for place in rng.integers(0, len(damaged), 4):
            damaged[place] = rng.integers(256)
        (tmp_path / "a.zip").write_bytes(damaged)
        with contextlib.suppress(DataError):
            assert len(open_data(str(tmp_path / "a.zip"), image_size=8)) <= 4


# ImageNet and LSUN


def test_imagenet(tmp_path: Path) -> None:
    write(
        tmp_path / "data" / "imagenet",
        {
            "train/n02000000/x.JPEG": png(200, 150, kind="JPEG"),
            "train/n01440764/a.JPEG": png(150, 200, kind="JPEG"),
            "train/n01440764/b.JPEG": png(90, 64, "L", kind="JPEG"),
            "val/ILSVRC2012_val_00000001.JPEG": png(99, 77, kind="JPEG"),
        },
    )
    data = open_data("imagenet64", data_dir=tmp_path)
    assert data.image_shape == (3, 64, 64)
    assert data.classes == ("n01440764", "n02000000")
    assert data.labels.tolist() == [0, 0, 1]
    assert (data.facts["crop"], data.facts["source"]) == ("dhariwal", "train")
    held_out = open_data("imagenet64", data_dir=tmp_path / "data" / "imagenet", split="test")
    assert (len(held_out), held_out.labels, held_out.facts["split"]) == (1, None, "test")


@pytest.mark.parametrize(
    "layout",
    [
        "imagenet/ILSVRC/Data/CLS-LOC/train/{wnid}/{name}.JPEG",
        "ILSVRC2012/{wnid}/{name}.JPEG",
        "train/{wnid}_{name}.JPEG",
        "{wnid}_{name}.JPEG",
    ],
)
def test_imagenet_layouts(layout: str, tmp_path: Path) -> None:
    wnids = ["n01440764", "n01443537", "n01443537"]
    names = [layout.format(wnid=wnid, name=i) for i, wnid in enumerate(wnids)]
    write(tmp_path / "mine", {name: png(70, 80, kind="JPEG") for name in names})
    data = open_data("imagenet64", data_dir=tmp_path / "mine")
    assert data.classes == ("n01440764", "n01443537")
    assert data.labels.tolist() == [0, 1, 1]


def test_imagenet_zip(tmp_path: Path) -> None:
    write_zip(
        tmp_path / "imagenet64.zip",
        {"n01440764/a.png": png(64, 64), "n01443537/b.png": png(64, 64)},
    )
    assert open_data("imagenet64", data_dir=tmp_path).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "layout", ["", "bedroom/", "lsun/bedroom/", "lsun-bedroom/", "data/bedroom_train/"]
)
def test_lsun_folders(layout: str, tmp_path: Path) -> None:
    content = png(300, 280)
    write(tmp_path / "mine", {f"{layout}{i}.webp": content for i in range(2)})
    data = open_data("lsun-bedroom", data_dir=tmp_path / "mine")
    assert data.image_shape == (3, 256, 256)
    assert np.array_equal(
        pixels(data)[1], images.lsun(images.read(content, ""), 256).transpose(2, 0, 1)
    )
    assert (data.labels, data.facts["crop"], data.facts["filter"]) == (None, "lsun", "box")


@contextlib.contextmanager
def lmdb_of(path: Path, values: Files) -> Iterator[None]:
    lmdb = pytest.importorskip("lmdb", reason="needs the extra 'lmdb'")
    path.mkdir(parents=True)
    with (
        lmdb.open(str(path), map_size=2**24) as environment,
        environment.begin(write=True) as writing,
    ):
        for key, value in values.items():
            writing.put(key.encode(), value)
    yield


def test_lsun_lmdb(tmp_path: Path) -> None:
    values = {f"{i:040x}": png(300, 260, seed=i, kind="WEBP") for i in range(3)}
    with (
        lmdb_of(tmp_path / "cat_train_lmdb", values),
        lmdb_of(tmp_path / "cat_val_lmdb", {"00": png(256, 256)}),
    ):
        data = open_data("lsun-cat", data_dir=tmp_path)
        assert len(data) == 3
        for i, content in enumerate(values.values()):
            want = images.lsun(images.read(content, ""), 256).transpose(2, 0, 1)
            assert np.array_equal(pixels(data)[i], want)
        assert len(open_data("lsun-cat", data_dir=tmp_path, split="test")) == 1
        assert len(open_data(str(tmp_path / "cat_train_lmdb"), image_size=32)) == 3


def test_a_damaged_lmdb(tmp_path: Path) -> None:
    pytest.importorskip("lmdb", reason="needs the extra 'lmdb'")
    write(tmp_path / "cat_train_lmdb", {"data.mdb": b"hello"})
    with pytest.raises(DataError, match=r"^cannot read the lmdb '.*cat_train_lmdb': "):
        open_data("lsun-cat", data_dir=tmp_path)


def test_without_the_extra_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cat_train_lmdb", {"data.mdb": b"hello"})
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError) as caught:
        open_data("lsun-cat", data_dir=tmp_path)
    where = tmp_path / "cat_train_lmdb"
    assert caught.value.message == f"'{where}' is an lmdb, which needs one more package"
    assert caught.value.hint == "pip install 'cmtool[lmdb]'"


def test_an_lmdb_is_read_without_locks_and_in_key_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the package, so that it is tested where the extra is not installed."""
    values = {b"b": png(256, 256, seed=1), b"a": png(256, 256, seed=2)}
    asked: dict[str, object] = {}

    class Reading:
        def __enter__(self) -> "Reading":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def cursor(self) -> "Reading":
            return self

        def iternext(self, keys: bool, values: bool) -> list[bytes]:
            assert keys
            assert not values
            return list(ENTRIES)

        def get(self, key: bytes) -> bytes | None:
            return ENTRIES.get(key)

    ENTRIES = values

    def opened(path: str, **options: object) -> types.SimpleNamespace:
        asked.update(options)
        return types.SimpleNamespace(begin=Reading)

    stand_in = types.SimpleNamespace(open=opened, Error=RuntimeError)
    monkeypatch.setitem(sys.modules, "lmdb", stand_in)
    write(tmp_path / "lsun" / "bedroom_train_lmdb", {"data.mdb": b""})
    data = open_data("lsun-bedroom", data_dir=tmp_path)
    assert np.array_equal(pixels(data)[0], images.read(values[b"a"], "").transpose(2, 0, 1))
    assert asked["readonly"] is True
    assert asked["lock"] is False
