"""Weight files made to harm: each ends in one clear error, and nothing of it runs."""

import contextlib
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import cmtool
from cmtool.errors import CheckpointError
from cmtool.foreign import nvidia, torch_file
from cmtool.pickled import Name
from tests import nvidia_files as made
from tests.nvidia_files import Raw, archive, blob, call, code, parameter, pickle_of, reference

CANARY = "canary"
ATTACK = f"touch {CANARY}"
RUN = call("os.system", ATTACK)
NAN, INF = float("nan"), float("inf")


def model(*, weights: Any = None, kwargs: Any = None, **fields: Any) -> bytes:
    """A good file but for some of its model's weights, arguments or attributes."""
    if weights is not None:
        good = {name: parameter(tensor) for name, tensor in made.small_weights().items()}
        weights = {**good, **weights}
    return pickle_of(made.snapshot(made.small(weights, kwargs=kwargs, **fields)))


BAD_ONE = "model.map_layer0.weight"
W = made.small_weights()[BAD_ONE]
BIG = torch.zeros(64, 64)


def in_blob(**parts: Any) -> bytes:
    """A good file but for the storage of one weight."""
    storage = call("torch.storage._load_from_bytes", blob(W, **parts))
    return model(weights={BAD_ONE: parameter(W, storage=storage)})


def shaped(**parts: Any) -> bytes:
    """A good file but for the form of one weight."""
    return model(weights={BAD_ONE: parameter(W, **parts)})


def stack(*instructions: bytes) -> bytes:
    """A pickle of instructions."""
    return b"\x80\x04" + b"".join(instructions) + b"."


def get(index: int) -> bytes:
    """The instruction that repeats what was remembered."""
    return b"j" + struct.pack("<I", index)


def doubling(times: int) -> Raw:
    """A tuple of 2^times parts that are all the same one."""
    return Raw(b")" + b"".join(b"\x94" + get(i) + b"\x86" for i in range(times)))


def without_arguments() -> bytes:
    """A good file whose network does not tell what it was made with."""
    top = made.small()
    top.args[0]["state"]["_modules"]["model"].args[0]["state"]["_init_kwargs"] = "text"
    return pickle_of(made.snapshot(top))


def layer(**modules: Any) -> Raw:
    """A module without weights."""
    top = made.module_of("Layer", {})
    top.args[0]["state"]["_modules"] = modules
    return Raw(code(top))


def with_module(inside: Any) -> bytes:
    """A good file with one module more."""
    top = made.small()
    top.args[0]["state"]["_modules"]["more"] = inside
    return pickle_of(made.snapshot(top))


def laughing_modules(times: int) -> bytes:
    """Modules that each hold the next one twice."""
    inside = layer()
    for number in range(times):
        inside = layer(a=Raw(inside + b"\x94"), b=Raw(get(number)))
    return with_module(inside)


def deep_modules(depth: int) -> bytes:
    """Modules each inside of the last."""
    inside = layer()
    for _ in range(depth):
        inside = layer(a=inside)
    return with_module(inside)


def module_in_itself() -> bytes:
    """A module that is its own part."""
    state = Raw(b"}\x94(" + code("_parameters") + b"}" + code("_buffers") + b"}u")
    inner = call(made.RECONSTRUCT, {"class_name": "Layer", "state": Raw(get(0))})
    outer = call(made.RECONSTRUCT, {"class_name": "Layer", "state": state})
    looped = state + code("_modules") + code({"a": inner}) + b"s"
    return with_module(call(made.RECONSTRUCT, {**outer.args[0], "state": Raw(looped)}))


def zipped(*, numbers: int = W.numel(), **parts: Any) -> bytes:
    """An archive of one weight, its form replaced."""
    value = {"w": parameter(W, storage=reference("0", numbers), **parts)}
    return archive(value, [("0", W)])


def with_entry(name: str, content: bytes = b"x", mode: int = 0o100644, packed: bool = False):
    """A good archive with one file more."""
    held = io.BytesIO(made.training_state())
    with zipfile.ZipFile(held, "a") as file:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        entry.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        file.writestr(entry, content)
    return held.getvalue()


def claiming(size: int) -> bytes:
    """An archive whose directory claims another size for its weight."""
    held, real = zipped(), struct.pack("<II", W.numel() * 4, W.numel() * 4)
    at = held.rindex(real)
    return held[:at] + struct.pack("<II", size, size) + held[at + 8 :]


def tar() -> bytes:
    """The oldest of torch's formats, with a link."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as file:
        link = tarfile.TarInfo("storages")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    return held.getvalue()


IMPORT_OS = call("builtins.__import__", "os")
# Python itself would run each of these, which is tried too.
RUNNING: dict[str, bytes] = {
    "reduce to os.system": pickle_of({"ema": RUN}),
    "a name on two lines": stack(b"cos\nsystem\n", code(ATTACK), b"\x85R"),
    "builtins.eval": pickle_of(call("builtins.eval", f"__import__('os').system('{ATTACK}')")),
    "builtins.exec": pickle_of(call("builtins.exec", f"import os; os.system('{ATTACK}')")),
    "a chain of getattr": stack(
        code(call("builtins.getattr", IMPORT_OS, "system")), code(ATTACK), b"\x85R"
    ),
    "a dotted name": stack(code("shutil"), code("os.system"), b"\x93", code(ATTACK), b"\x85R"),
    "functools.partial": stack(
        code(call("functools.partial", Name("os.system"))), code(ATTACK), b"\x85R"
    ),
    "operator.methodcaller": stack(
        code(call("operator.methodcaller", "system", ATTACK)), code(IMPORT_OS), b"\x85R"
    ),
    "the instruction for instances": stack(b"(", code(ATTACK), b"ios\nsystem\n"),
    "the instruction for objects": stack(b"(cos\nsystem\n", code(ATTACK), b"o"),
    "hidden under another value": stack(code(RUN), b"0", code({"ema": None})),
    "a key": pickle_of({"ema": {Raw(code(RUN)): 1}}),
    "the state of an OrderedDict": stack(
        code(call("collections.OrderedDict")), code({"a": RUN}), b"b"
    ),
    "the items of an OrderedDict": pickle_of(call("collections.OrderedDict", [("a", RUN)])),
    "in a tensor's bytes": pickle_of(call("torch.storage._load_from_bytes", pickle_of(RUN))),
    "runpy": pickle_of(call("timeit.timeit", "pass", f"import os; os.system('{ATTACK}')")),
}
CODE: dict[str, bytes] = {
    **RUNNING,
    "in a weight's bytes": in_blob(magic=RUN),
    "in a weight's bytes, later": in_blob(machine=RUN),
    "as a weight's storage": in_blob(value=RUN),
    "as the storages' names": in_blob(keys=[RUN]),
    "in a weight's hooks": model(weights={BAD_ONE: call("torch._utils._rebuild_parameter", RUN)}),
    "in a module's state": model(forward=RUN),
    "in the arguments": model(kwargs={"model_channels": RUN}),
    "as a class of torch": pickle_of(call("torch.nn.modules.container.os.system", ATTACK)),
    "through a module of torch": stack(
        code("torch.nn.modules.module"), code("torch.os.system"), b"\x93", code(ATTACK), b"\x85R"
    ),
    "torch.load": pickle_of(call("torch.load", "model.pkl")),
    "numpy.load": pickle_of(call("numpy.load", "model.pkl", None, True)),
    "an archive's pickle": archive({"net": RUN}),
    "an archive's pickle, two lines": archive(RUNNING["a name on two lines"]),
    "an archive's storage": archive({"w": parameter(W, storage=RUN)}),
    "a state for a class": stack(code(Name("torch.nn.modules.Module")), code({"a": 1}), b"b"),
    "a state for a function": stack(code(Name(made.RECONSTRUCT)), code({"__code__": 1}), b"b"),
    "a state for a list": stack(b"]", code({"__class__": 1}), b"b"),
    "two states": stack(code(call("numpy.dtype", "f8")), b"}b}b"),
    "calling what a call gave": stack(code(call("numpy.dtype", "f8")), b")R"),
    "calling a dictionary": stack(b"})R"),
    "keywords for a new object": stack(code(Name("numpy.ndarray")), b")}\x92"),
    "an extension": stack(b"\x82\x01"),
    "a long extension": stack(b"\x84\x01\x00\x00\x00"),
    "something kept outside": stack(code("module"), b"Q"),
    "something kept outside, as text": stack(b"Pmodule\n"),
    "a buffer from outside": stack(b"\x97"),
    "a reference that is no storage": archive({"w": made.Reference(("module", RUN.path))}),
    "a reference to a class": archive({"w": reference("0", 4, "os")}),
    "escape codes in a name": stack(code("\x1b[2Jos"), code("system\n"), b"\x93"),
}
SIZES: dict[str, bytes] = {
    "2^40 bytes": stack(b"\x8e" + struct.pack("<Q", 2**40)),
    "2^63 bytes": stack(b"\x8e" + struct.pack("<Q", 2**63)),
    "4 GiB of bytes": stack(b"B" + b"\xff" * 4),
    "4 GiB of text": stack(b"X" + b"\xff" * 4),
    "2^60 of text": stack(b"\x8d" + struct.pack("<Q", 2**60)),
    "a negative length": stack(b"T" + struct.pack("<i", -5)),
    "a number of 2 GiB": stack(b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "a frame of 2^62": stack(b"\x95" + struct.pack("<Q", 2**62), b"N"),
    "a bytearray of 2^40": stack(b"\x96" + struct.pack("<Q", 2**40)),
    "place 2^32 in the memory": stack(b"Nr\xff\xff\xff\xff"),
    "a storage of 2^40": in_blob(numbers=2**40),
    "a storage of -1": in_blob(numbers=-1),
    "a tensor of 2^40": shaped(size=(2**20, 2**20), stride=(2**20, 1)),
    "a tensor of 2^126": shaped(size=(2**63, 2**63), stride=(0, 0)),
    "one number 2^40 times": shaped(size=(2**40,), stride=(0,)),
    "a hundred axes": shaped(size=(1,) * 100, stride=(1,) * 100),
    "an offset outside": shaped(offset=10**6),
    "a negative offset": shaped(offset=-1),
    "a negative stride": shaped(stride=(-32, 1)),
    "a negative size": shaped(size=(-32, 32)),
    "a size of nothing": shaped(size=(0, 2**62)),
    "a stride outside": shaped(stride=(10**6, 1)),
    "a size that is text": shaped(size=("32", "32")),
    "a size that is no tuple": shaped(size=doubling(40)),
    "a storage in an archive of 2^40": zipped(numbers=2**40),
    "a storage in an archive of fewer": zipped(numbers=W.numel() + 1),
    "a tensor in an archive of 2^40": zipped(size=(2**40,), stride=(1,)),
    "an archive's file of 2 GiB": claiming(2**31),
    "an archive's file of fewer": claiming(4),
    "an array of 2^40": model(
        sigma_data=Raw(
            code(call("numpy.core.multiarray._reconstruct", Name("numpy.ndarray"), (0,), b"b"))
            + code((1, (2**40,), call("numpy.dtype", "f8"), False, b""))
            + b"b"
        )
    ),
    "weights that share a storage": archive(
        {f"w{i}": parameter(BIG, storage=reference("0", BIG.numel())) for i in range(500)},
        [("0", BIG)],
    ),
    "a storage of many instructions": in_blob(machine={"a": [1] * 1000}),
    "a hundred thousand weights": archive({f"w{i}": None for i in range(100_000)}),
    "a packed file of zeros": with_entry("archive/data/999", bytes(50 * 2**20), packed=True),
    "a packed pickle": with_entry("other/data.pkl", bytes(50 * 2**20), packed=True),
    "2 million instructions": stack(b"]" + b"Na" * 1_000_000),
    "a stack of a million": stack(b"N" * 1_000_000),
    "a million marks": stack(b"(" * 1_000_000),
    "a million lists": stack(b"]" * 90_000, b"a" * 80_000),
    "tuples in tuples": stack(b"N" + b"\x85" * 300_000),
    "2^60 tuples": pickle_of(made.snapshot(doubling(60))),
    "2^60 tuples as a number": model(sigma_data=doubling(60)),
    "2^60 tuples as a key": pickle_of({"ema": Raw(b"}" + doubling(60) + b"Ns")}),
    "2^60 tuples in a set": pickle_of({"ema": Raw(b"\x8f(" + doubling(60) + b"\x90")}),
    "2^40 modules": laughing_modules(40),
    "modules 500 deep": deep_modules(500),
    "a module in itself": module_in_itself(),
    "a dictionary in itself": stack(b"}\x94" + code("ema") + get(0) + b"s"),
    "a million classes": model(label_dim=10**6),
    "a billion classes": model(label_dim=10**9),
    "an image of a gigapixel": model(img_resolution=2**15),
    "a billion blocks": model(kwargs={"num_blocks": 10**9}),
    "more blocks than there are": model(kwargs={"num_blocks": 32}),
    "a width of 2^40": model(kwargs={"model_channels": 2**40}),
    "a width of 8192": model(kwargs={"model_channels": 8192}),
    "a thousand levels": model(kwargs={"channel_mult": [1] * 1000}),
}
FORM: dict[str, bytes] = {
    "nothing": b"",
    "only a beginning": b"\x80",
    "an unknown protocol": b"\x80\x09N.",
    "a pickle of protocol 0": pickle.dumps({"ema": 1}, 0),
    "the wrong magic": b"\x93NUMPY" + bytes(100),
    "text": b"weights",
    "an empty stack": b"\x80\x04.",
    "two values": b"\x80\x04NN.",
    "an open mark": b"\x80\x04(N.",
    "what was never remembered": stack(b"h\x07"),
    "an odd dictionary": stack(b"}(NNNu"),
    "a list as a key": stack(b"}]Ns"),
    "nan as a key": stack(b"}", code(NAN), b"Ns"),
    "text that is none": stack(b"X\x02\x00\x00\x00\xff\xfe"),
    "filling what is no list": stack(b"NNa"),
    "a number": pickle_of(7),
    "a number as the model": pickle_of({"ema": 7}),
    "text as a state": pickle_of(
        made.snapshot(call(made.RECONSTRUCT, {"class_name": "EDMPrecond", "state": "a"}))
    ),
    "a class without a name": pickle_of(
        made.snapshot(call(made.RECONSTRUCT, {"class_name": 3, "state": {}}))
    ),
    "an unknown class": pickle_of(made.snapshot(made.small(kind="Evil"))),
    "no weights": pickle_of(made.snapshot(made.small({}))),
    "a weight that is text": model(weights={BAD_ONE: "numbers"}),
    "a weight that is a list": model(weights={BAD_ONE: [1.0, 2.0]}),
    "a weight of a name that cannot be shown": model(weights={"model.\x1b[2J": parameter(W)}),
    "a weight too many": model(weights={"model.other": parameter(W)}),
    "nan for sigma_data": model(sigma_data=NAN),
    "infinity for sigma_data": model(sigma_data=INF),
    "text for sigma_data": model(sigma_data="0.5"),
    "nan for sigma_min": model(sigma_min=NAN),
    "sigma_min above sigma_max": model(sigma_min=50.0, sigma_max=10.0),
    "nan for a width": model(kwargs={"model_channels": NAN}),
    "no channels": model(kwargs={"model_channels": 0}),
    "truth for a width": model(kwargs={"model_channels": True}),
    "fewer than no classes": model(label_dim=-1),
    "a fraction of a class": model(label_dim=2.5),
    "a level of nothing": model(kwargs={"channel_mult": [0]}),
    "no levels": model(kwargs={"channel_mult": []}),
    "arguments that are text": without_arguments(),
    "an unknown form": model(kwargs={"embedding_type": Raw(doubling(40))}),
    "another filter": model(kwargs={"resample_filter": [1, 3, 3, 1]}),
    "VP's noise of another kind": model(kind="VPPrecond", beta_d=7.0),
    "a link in an archive": with_entry("archive/data/link", b"/etc/passwd", mode=0o120777),
    "a path out of an archive": with_entry("archive/../../escaped"),
    "a path from the root in an archive": with_entry("/etc/cron.d/escaped"),
    "a path with a drive in an archive": with_entry("archive\\..\\escaped"),
    "two pickles in an archive": with_entry("other/data.pkl"),
    "an archive of nothing": b"PK\x05\x06" + bytes(18),
    "links in a tar": tar(),
    "an archive's bytes in another order": archive({}).replace(b"little", b"big   "),
}
GOOD = {"pickle": model(), "archive": made.training_state()}
CUT = {
    f"{kind} cut at {tenth}0 %": content[: len(content) * tenth // 10]
    for kind, content in GOOD.items()
    for tenth in range(1, 10)
}
ALL = {**CODE, **SIZES, **FORM, **CUT}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(file: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        cmtool.load(file, device="cpu")
    return caught.value


@pytest.mark.parametrize("name", ALL)
def test_one_clear_error_and_nothing_else(folder: Path, name: str) -> None:
    file = folder / "model.pkl"
    file.write_bytes(ALL[name])
    before, start = peak(), time.perf_counter()
    error = refusal(file)
    assert time.perf_counter() - start < 20
    assert peak() - before < 250 * 2**20
    assert os.listdir(folder) == ["model.pkl"]
    assert str(file) in error.message
    assert error.message.isprintable()
    assert error.hint
    assert len(error.message) < 400 + len(str(file))


def peak() -> int:
    """Most memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", RUNNING)
def test_python_itself_would_have_run_it(folder: Path, name: str) -> None:
    with contextlib.suppress(Exception):  # What comes after the harm is done.
        pickle.loads(RUNNING[name])
    assert os.listdir(folder) == [CANARY]


def test_the_source_text_in_a_good_file_is_not_run(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(GOOD["pickle"])
    assert b"touch canary" in GOOD["pickle"]
    cmtool.load(folder / "model.pkl", device="cpu")
    assert os.listdir(folder) == ["model.pkl"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("reduce to os.system", "it asks for 'os.system' at byte 30, which data does not need"),
        ("in a weight's bytes", "it asks for 'os.system' at byte"),
        ("a tensor of 2^40", "it claims a tensor of shape (1048576, 1048576) in 256 numbers"),
        ("2^40 bytes", "it claims 1,099,511,627,776 bytes at byte 2 and ends before them"),
        ("an extension", "it holds the instruction 0x82 at byte 2, which data does not need"),
        ("a link in an archive", "its file 'archive/data/link' is a link or a folder"),
        ("nan for sigma_data", "'EDMPrecond' needs 1e-06 <= sigma_data <= 1000000.0"),
    ],
)
def test_the_error_names_what_and_where(folder: Path, name: str, says: str) -> None:
    (folder / "model.pkl").write_bytes(ALL[name])
    assert says in refusal(folder / "model.pkl").message


def test_a_storage_of_another_file_is_not_read(folder: Path) -> None:
    """An archive's storage is found by its name inside; one that is not there is refused."""
    value = {"w": parameter(W, storage=reference("../../secret", W.numel()))}
    (folder / "model.pkl").write_bytes(archive(value, [("0", W)]))
    assert "for its storage" in refusal(folder / "model.pkl").message


def test_a_storage_that_is_a_part_of_another_is_not_read_as_a_whole(folder: Path) -> None:
    key = (*reference("0", W.numel()).key, ("1", 5, W.numel()))
    value = {"w": parameter(W, storage=made.Reference(key))}
    (folder / "model.pkl").write_bytes(archive(value, [("0", W)]))
    assert "no storage" in refusal(folder / "model.pkl").message


def test_bytes_that_weights_share_are_held_once(folder: Path) -> None:
    shared = code(blob(torch.zeros(4 * 2**20)))
    first, weights = Raw(shared + b"\x94"), {}
    for name, tensor in made.small_weights().items():
        storage = call("torch.storage._load_from_bytes", first)
        first, weights[name] = Raw(get(0)), parameter(tensor, storage=storage)
    (folder / "model.pkl").write_bytes(model(weights=weights))
    before = peak()
    held = torch_file.open_file(folder / "model.pkl")
    assert nvidia.read(held, {}, print).image_shape == (1, 8, 8)
    assert peak() - before < 100 * 2**20


def test_weights_may_be_seen_from_several_sides(folder: Path) -> None:
    """A transposed view inside of its storage is what it says."""
    value = {"w": parameter(W, size=(8, 32), stride=(1, 8), storage=reference("0", W.numel()))}
    (folder / "model.pt").write_bytes(archive(value, [("0", W)]))
    held = torch_file.open_file(folder / "model.pt")
    assert torch.equal(held.state(held.content)["w"], W.T)


@pytest.mark.slow
def test_with_a_limit_on_memory(folder: Path) -> None:
    """In a process that cannot have more than 500 MB beside what loading a good file takes."""
    for number, content in enumerate([GOOD["pickle"], *SIZES.values()]):
        (folder / f"{number}.pkl").write_bytes(content)
    program = """
import resource, sys, cmtool
from cmtool.errors import CheckpointError
cmtool.load("0.pkl", device="cpu")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20,) * 2)
for number in range(1, int(sys.argv[1]) + 1):
    try:
        cmtool.load(f"{number}.pkl", device="cpu")
    except CheckpointError:
        print(number)
"""
    command = [sys.executable, "-c", program, str(len(SIZES))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == [str(number) for number in range(1, len(SIZES) + 1)], done.stderr
