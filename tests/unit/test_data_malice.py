"""Files made by an enemy: pickles that run code, archives that fill the disk or reach outside."""

import io
import os
import pickle
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cmtool.data import _stores, cifar10
from cmtool.data._unpickle import cifar_batch
from cmtool.data.catalog import open_data
from cmtool.errors import DataError
from cmtool.images import save_png


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CMTOOL_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


# Pickles


class Runs:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


TOUCH = "touch ran"
ATTACKS = {
    "os.system": pickle.dumps({b"data": Runs(os.system, TOUCH)}),
    "eval": pickle.dumps({b"data": Runs(eval, "open('ran', 'w')")}),
    "exec, protocol 0": pickle.dumps({b"data": Runs(exec, "open('ran', 'w')")}, 0),
    "open": pickle.dumps([Runs(open, "ran", "w")]),
    "getattr": pickle.dumps(Runs(getattr, Runs(__import__, "os"), "system")),
    "numpy.load": pickle.dumps({b"data": Runs(np.load, "evil.npy")}),
    "a module's attribute": b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__subclasses\x93.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93)R.",
    "inst": b"(S'touch ran'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'touch ran'\no.",
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent id": b"Pos.system\n.",
    "builtins of python 2": b"c__builtin__\neval\n(S\"open('ran', 'w')\"\ntR.",
    "real numpy array with objects": pickle.dumps({b"data": np.array([Runs(os.system, TOUCH)])}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_pickle_runs_code(attack: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^'batch' is not a CIFAR-10 batch: "):
        cifar_batch(ATTACKS[attack], "batch")
    assert not (tmp_path / "ran").exists()


def test_the_refused_name_is_told() -> None:
    with pytest.raises(DataError) as caught:
        cifar_batch(ATTACKS["eval"], "data_batch_1")
    start = "'data_batch_1' is not a CIFAR-10 batch: it asks for 'builtins.eval' at byte "
    assert caught.value.message.startswith(start)


def test_the_stand_ins_cannot_be_poisoned() -> None:
    """State set on a class instead of on an instance of it must not outlive the call."""
    for module, name in [(b"numpy", b"dtype"), (b"numpy", b"ndarray")]:
        state = b"}U\x04codeU\x02u1s"
        with pytest.raises(DataError):
            cifar_batch(b"\x80\x02c" + module + b"\n" + name + b"\n" + state + b"b.", "batch")
    good = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}
    assert cifar_batch(pickle.dumps(good, 2 + 1), "batch")[1].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ([], "it is not a dictionary"),
        ({}, "it has no pixel array 'data'"),
        ({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}, "its pixels are not plain bytes"),
        ({b"data": np.zeros((2, 3071), np.uint8)}, "its pixels are not rows of 3072 bytes"),
        ({b"data": np.zeros((3072,), np.uint8)}, "its pixels are not rows of 3072 bytes"),
        (
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]},
            "its labels are not a list of numbers 0 .. 9",
        ),
        (
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, "2"]},
            "its labels are not a list of numbers 0 .. 9",
        ),
        ({b"data": np.zeros((2, 3072), np.uint8)}, "its labels are not a list of numbers 0 .. 9"),
        ({b"data": np.asfortranarray(np.zeros((2, 3072), np.uint8))}, "its pixels are not plain"),
    ],
)
def test_pickles_of_something_else(batch: object, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        cifar_batch(pickle.dumps(batch, 4), "batch")
    assert caught.value.message.startswith(f"'batch' is not a CIFAR-10 batch: {reason}")


def test_a_shape_that_the_pixels_do_not_have() -> None:
    good = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}, 4)
    assert good.count(b"K\x02M\x00\x0c\x86") == 1
    with pytest.raises(DataError, match="its pixels are not 9 rows of 3072 bytes"):
        cifar_batch(good.replace(b"K\x02M\x00\x0c\x86", b"K\x09M\x00\x0c\x86"), "batch")


def test_damaged_pickles_are_never_anything_but_a_data_error() -> None:
    good = pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}, 4)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(good[:60] + good[-40:])
        for place in rng.integers(0, len(damaged), 2):
            damaged[place] = rng.integers(256)
        with pytest.raises(DataError):
            cifar_batch(bytes(damaged[: rng.integers(1, 101)]), "batch")


def test_a_cifar_folder_with_an_evil_batch(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    for i in range(1, 6):
        (tmp_path / "cifar-10-batches-py" / f"data_batch_{i}").write_bytes(ATTACKS["os.system"])
    with pytest.raises(DataError, match=r"data_batch_1' is not a CIFAR-10 batch: it asks for "):
        open_data("cifar10", data_dir=tmp_path)
    assert not (tmp_path / "ran").exists()


# Tar archives


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "members",
    [
        [(member("../../data_batch_1.bin"), b"x" * 3073)],
        [(member("/tmp/data_batch_1.bin"), b"x" * 3073)],
        [(member("data_batch_1.bin", tarfile.SYMTYPE, "/etc/passwd"), b"")],
        [(member("data_batch_1.bin", tarfile.LNKTYPE, "/etc/passwd"), b"")],
        [(member("data_batch_1.bin", tarfile.CHRTYPE), b"")],
        [(member("data_batch_1.bin", tarfile.DIRTYPE), b"")],
    ],
)
def test_nothing_of_a_tar_reaches_the_disk(
    members: list[tuple[tarfile.TarInfo, bytes]], tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    tar(folder / "cifar-10-binary.tar.gz", *members)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz' lacks 'data_batch_[12]"):
        open_data("cifar10", data_dir=folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_huge_tar_member_is_refused_at_once(tmp_path: Path) -> None:
    info = tarfile.TarInfo("big")
    info.size = 10 * 2**40
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.fileobj.write(info.tobuf())
    start = time.monotonic()
    with pytest.raises(DataError, match=r"holds 'big' of 10,995,116,277,760 bytes, too many$"):
        open_data("cifar10", data_dir=tmp_path)
    assert time.monotonic() - start < 1


def test_a_gzip_bomb_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmtool.data.mnist._LIMIT", 1000)
    import gzip

    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"\0" * 1_000_000))
    with pytest.raises(DataError, match=r"holds more than the 1,000 bytes that it should$"):
        open_data("mnist", data_dir=tmp_path)


def test_a_large_batch_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "_LIMIT", 1000)
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(b"\0" * 3073)
    with pytest.raises(DataError, match=r"data_batch_1\.bin' holds more than the 1,000 bytes"):
        open_data("cifar10", data_dir=tmp_path)


# Zips


def png(tmp_path: Path) -> bytes:
    save_png(tmp_path / "one.png", np.zeros((8, 8, 3), dtype=np.uint8))
    return (tmp_path / "one.png").read_bytes()


def test_zip_members_with_bad_names_are_only_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "a.zip", "w") as archive:
        for name in ("../../escaped.png", "/tmp/escaped-from-a-zip.png", "ok.png"):
            archive.writestr(name, png(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    data = open_data(str(tmp_path / "in" / "a.zip"))
    assert data.images(np.arange(len(data))).shape == (2, 3, 8, 8)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/escaped-from-a-zip.png").exists()


def test_a_huge_zip_member_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stores, "MAX_FILE_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 10_001)
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    with pytest.raises(DataError, match=r"a\.zip/a\.png' is larger than 10,000 bytes$"):
        open_data(str(tmp_path / "a.zip"))


def test_a_zip_member_that_lies_about_its_size_is_cut(tmp_path: Path) -> None:
    """The directory says 100 bytes, the data unpack to a megabyte."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"\0" * 1_000_000)
    content = path.read_bytes().replace(struct.pack("<I", 1_000_000), struct.pack("<I", 100))
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^cannot read '.*a\.zip/a\.png': Bad CRC-32"):
        open_data(str(path))


def test_an_encrypted_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(tmp_path))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        open_data(str(path))
    assert caught.value.message == f"the zip '{path}' is encrypted"
    assert caught.value.hint == "unpack it, and pass the folder"


def test_a_zip_member_in_a_compression_that_python_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(tmp_path))
    content = bytearray(path.read_bytes())
    content[8] = content[content.index(b"PK\x01\x02") + 10] = 9  # Deflate64.
    path.write_bytes(content)
    with pytest.raises(DataError, match="compression") as caught:
        open_data(str(path))
    assert "data.skip_broken=true" in caught.value.hint


def test_a_large_file_in_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stores, "MAX_FILE_BYTES", 50)
    png(tmp_path)
    with pytest.raises(DataError, match=r"one\.png' is larger than 50 bytes$"):
        open_data(str(tmp_path))
