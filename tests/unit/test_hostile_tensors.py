"""Files of plain tensors that lie: one clear error each, nothing written, little memory and time.

Pickles have tests of their own; a file here can run no code, but it can claim to be anything.
"""

import json
import resource
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import flax_file
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from cmtool import checkpoint
from cmtool.errors import CheckpointError, CmtoolError
from cmtool.foreign import jax
from cmtool.foreign._msgpack import unpack
from cmtool.meta import Meta
from cmtool.networks.ncsnpp import Ncsnpp
from cmtool.recipe import parse
from cmtool.workflows.load import open_model

SPEC = Ncsnpp(channels=8, channel_mult=(1,), blocks=1, attention=())
RECIPE = """
[network]
name = "tiny"
width = 16
multipliers = [1]
blocks = 1

[loss]
name = "dsm"
"""
GIGABYTE = 2**30


def ours() -> bytes:
    """A whole single file of this tool."""
    torch.manual_seed(0)
    meta = Meta("diffusion", (1, 8, 8), versions={"cmtool": "0"})
    recipe = parse(RECIPE, "recipe")
    weights = checkpoint.build(recipe, meta).network.state_dict()
    config = {**meta.__dict__, "recipe": RECIPE}
    return save(weights, metadata={"cmtool": json.dumps(config)})


def jaxs() -> bytes:
    """A whole file of the JAX code."""
    torch.manual_seed(0)
    flat = jax.to_theirs(SPEC.build(8, 3, 0).state_dict(), SPEC, 8, 3)
    return flax_file.packed(flax_file.training_state(flax_file.nested(flat)))


OURS, JAXS = ours(), jaxs()
FACTS = {"image_size": 8}


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_text(text: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + body


def changed(change: Any) -> bytes:
    """Our file after a change to its header."""
    header, body = split(OURS)
    change(header)
    return with_text(json.dumps(header).encode(), body)


def first(header: dict[str, Any]) -> dict[str, Any]:
    tensor: dict[str, Any] = header[next(key for key in header if key != "__metadata__")]
    return tensor


def configured(**fields: Any) -> bytes:
    """Our file with other values in its configuration."""

    def change(header: dict[str, Any]) -> None:
        config = json.loads(header["__metadata__"]["cmtool"])
        header["__metadata__"]["cmtool"] = json.dumps(config | fields)

    return changed(change)


def config_text(text: Any) -> bytes:
    return changed(lambda header: header["__metadata__"].update(cmtool=text))


SAFETENSORS: dict[str, bytes] = {
    "header longer than the file": struct.pack("<Q", 10**6) + OURS[8:],
    "header of 2^63 bytes": struct.pack("<Q", 2**63) + OURS[8:],
    "header of 90 MB of nothing": with_text(b"{" + b" " * 90_000_000),
    "header of no bytes": struct.pack("<Q", 0) + b"{" * 20,
    "header that is a list": with_text(b'{"a":[1]}'.replace(b"{", b"[").replace(b"}", b"]")),
    "header that is cut JSON": with_text(b'{"a": {"dtype": "F32", "shape": [1'),
    "header that is not UTF-8": with_text(b'{"\xff\xfe": 1}'),
    "header a hundred thousand deep": with_text(b'{"a":' + b"[" * 100_000),
    "tensor a hundred thousand deep": with_text(
        b'{"a":' + b'{"b":' * 100_000 + b"1" + b"}" * 100_001
    ),
    "the same name twice": with_text(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"\0\0\0\0",
    ),
    "offsets behind the end": changed(lambda h: first(h).update(data_offsets=[0, 10**12])),
    "offsets that run backwards": changed(lambda h: first(h).update(data_offsets=[64, 0])),
    "negative offsets": changed(lambda h: first(h).update(data_offsets=[-8, 0])),
    "offsets that overlap": with_text(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
        b"\0" * 12,
    ),
    "a gigabyte claimed": changed(lambda h: first(h).update(shape=[GIGABYTE])),
    "a shape beyond 64 bits": changed(lambda h: first(h).update(shape=[2**40, 2**40])),
    "a negative shape": changed(lambda h: first(h).update(shape=[-1, -64])),
    "a shape of text": changed(lambda h: first(h).update(shape="big")),
    "an unknown type": changed(lambda h: first(h).update(dtype="F1")),
    "a type that is a list": changed(lambda h: first(h).update(dtype=[])),
    "a tensor that is a number": changed(lambda h: h.update(more=3)),
    "texts that are numbers": changed(lambda h: h["__metadata__"].update(cmtool=3)),
    "texts that are a list": changed(lambda h: h.update(__metadata__=[])),
    "body cut": OURS[:-100],
    "body too long": OURS + b"\0" * 100,
    "weights that are whole numbers": changed(
        lambda h: [t.update(dtype="I32") for k, t in h.items() if k != "__metadata__"]
    ),
    "configuration that is no JSON": config_text("{"),
    "configuration that is a list": config_text("[1, 2]"),
    "configuration a hundred thousand deep": config_text("[" * 100_000),
    "configuration without a recipe": config_text("{}"),
    "recipe that is a number": configured(recipe=7),
    "recipe that is a list": configured(recipe=[RECIPE]),
    "recipe that is no TOML": configured(recipe="[network"),
    "recipe a hundred thousand deep": configured(recipe="a = " + "[" * 100_000),
    "recipe of another network": configured(recipe=RECIPE.replace("16", "24")),
    "recipe of a network of terabytes": configured(recipe=RECIPE.replace("16", "1000000")),
    "recipe of a network beyond numbers": configured(recipe=RECIPE.replace("16", "9" * 30)),
    "recipe of a billion blocks": configured(
        recipe=RECIPE.replace("blocks = 1", "blocks = 1000000000")
    ),
    "recipe of a billion levels": configured(
        recipe=f'{RECIPE}[denoiser]\nscalings = "ddpm"\ntimesteps = 1000000000\n'
    ),
    "recipe that is not a number": configured(recipe=f"{RECIPE}[denoiser]\nsigma_data = nan\n"),
    "kind that is a list": configured(kind=[]),
    "kind that is unknown": configured(kind="energy"),
    "image of no size": configured(image_shape=[1, 0, 0]),
    "image of terabytes": configured(image_shape=[10**9, 8, 8]),
    "image of broken pixels": configured(image_shape=[1, 8.5, 8.5]),
    "image of text": configured(image_shape="big"),
    "classes that are numbers": configured(classes=[1, 2]),
    "classes that are a number": configured(classes=10),
    "grid that is not a number": configured(grid=[float("nan")]),
    "grid of text": configured(grid="abc"),
    "times that are not numbers": configured(times={"2": [float("nan"), 1]}),
    "times that are a list": configured(times=[1]),
    "steps that are text": configured(step="many"),
    "a format of the future": configured(format=99),
    "a format that is a list": configured(format=[1]),
    "a field of nobody": configured(more=1),
}


def array(shape: list[Any], dtype: Any = "float32", content: Any = b"\0\0\0\0") -> bytes:
    return flax_file.extension(1, flax_file.packed([shape, dtype, content]))


def state(inner: bytes, key: str = "params_ema") -> bytes:
    """A dictionary of one thing."""
    return b"\x81" + flax_file.text(key) + inner


def weights(inner: bytes) -> bytes:
    return state(b"\x81" + flax_file.text("a") + inner)


def tree(**more: Any) -> bytes:
    """The whole file with other averaged weights."""
    flat = jax.to_theirs(SPEC.build(8, 3, 0).state_dict(), SPEC, 8, 3)
    found = {k: v for k, v in (flat | more).items() if v is not None}
    return flax_file.packed(flax_file.training_state(flax_file.nested(found)))


def chunks(**fields: Any) -> bytes:
    mark = {"__msgpack_chunked_array__": True, "shape": [2], "chunks": [torch.zeros(2)]}
    return weights(flax_file.packed(mark | fields))


MSGPACK: dict[str, bytes] = {
    "cut": JAXS[:-1],
    "a byte too many": JAXS + b"\0",
    "text longer than the file": state(b"\xdb\xff\xff\xff\xff" + b"a"),
    "bytes longer than the file": state(b"\xc6\xff\xff\xff\xff" + b"a"),
    "array longer than the file": state(b"\xc9\xff\xff\xff\xff\x01" + b"a"),
    "four billion values in a list": state(b"\xdd\xff\xff\xff\xff" + b"\0" * 100),
    "four billion pairs": state(b"\xdf\xff\xff\xff\xff" + b"\xa0\0" * 100),
    "lists of as many as bytes are left": state(
        b"".join(b"\xdd" + struct.pack(">I", 10**6) for _ in range(30)) + b"\0" * 10**6
    ),
    "ten million values": state(b"\xdd" + struct.pack(">I", 10**7) + b"\xc0" * 10**7),
    "a hundred thousand deep": state(b"\x91" * 100_000),
    "dictionaries a hundred thousand deep": state(b"\x81\xa1a" * 100_000),
    "arrays inside arrays": state(b"\xc7\xff\x01" * 100_000),
    "a key that is a number": b"\x82\xa1a\x01\x01\x01",
    "a key twice": b"\x82\xa1a\x01\xa1a\x01",
    "a text that is not UTF-8": state(b"\xa2\xff\xfe"),
    "a byte that means nothing": state(b"\xc1"),
    "a type of one's own": state(flax_file.extension(77, b"cos\nsystem\n")),
    "a time": state(flax_file.extension(-1, b"\0\0\0\0")),
    "averaged weights of no kind": state(b"\x07"),
    "no averaged weights": state(b"\x80", "params"),
    "an array of a petabyte": weights(array([2**50])),
    "an array beyond 64 bits": weights(array([2**62, 2**62, 2**62])),
    "an array of nothing by a lot": weights(array([0, 2**62], content=b"")),
    "an array of negative shape": weights(array([-1])),
    "an array of nine axes": weights(array([1] * 9)),
    "an array of text as shape": weights(array(["a"])),
    "an array of objects": weights(array([1], "object")),
    "an array of whole numbers": weights(array([1], "int32")),
    "an array of type 7": weights(array([1], 7)),
    "an array of text": weights(array([1], "float32", "text")),
    "an array of too few bytes": weights(array([2])),
    "an array of two parts": weights(flax_file.extension(1, flax_file.packed([[1], "float32"]))),
    "an array with more behind it": weights(
        flax_file.extension(1, flax_file.packed([[1], "float32", b"\0\0\0\0"]) + b"\0")
    ),
    "weights that are a text": weights(b"\xa1a"),
    "chunks of a petabyte": chunks(shape=[2**50]),
    "chunks that are missing": chunks(chunks=None),
    "chunks that are none": chunks(chunks=[]),
    "chunks that are numbers": chunks(chunks=[1, 2]),
    "chunks of two types": chunks(chunks=[torch.zeros(1), torch.zeros(1, dtype=torch.half)]),
    "chunks that are not numbered": chunks(chunks={"7": torch.zeros(2)}),
    "chunks inside chunks": chunks(chunks=[{"__msgpack_chunked_array__": True}]),
    "no network": weights(array([1])),
    "a weight missing": tree(**{"Conv_0/bias": None}),
    "a weight too many": tree(**{"Conv_7/bias": torch.zeros(1)}),
    "a weight of another shape": tree(**{"Conv_0/bias": torch.zeros(7)}),
    "a weight of another number of axes": tree(**{"Conv_0/kernel": torch.zeros(8)}),
    "one projection missing": tree(**{"AttnBlockpp_0/NIN_1/W": None}),
    "projections of unlike shapes": tree(**{"AttnBlockpp_0/NIN_1/W": torch.zeros(8, 7)}),
    "a name with two spellings": tree(**{"Conv_0/W": torch.zeros(1)}),
    "a thousand levels": tree(
        **{f"Downsample_{i}/Conv2d_0/b": torch.zeros(1) for i in range(1000)}
    ),
}


@contextmanager
def bounded(megabytes: int = 64, seconds: float = 5.0) -> Iterator[None]:
    """Fails if more memory or time is used inside, Python's or torch's."""
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    try:
        yield
    finally:
        took = time.perf_counter() - start
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert took < seconds
    assert most < megabytes * 2**20
    assert resident < 2 * megabytes * 2**10


def refused(path: Path) -> CheckpointError:
    with pytest.raises(CmtoolError) as caught, bounded():
        open_model(path, facts=FACTS if path.suffix != ".safetensors" else {})
    text = caught.value.message
    assert text
    assert len(text) < 2000
    return caught.value


def test_the_files_are_whole_before_they_are_spoilt(tmp_path: Path):
    for name, content in (("a.safetensors", OURS), ("checkpoint_80", JAXS)):
        (tmp_path / name).write_bytes(content)
    assert open_model(tmp_path / "a.safetensors").denoiser.image_shape == (1, 8, 8)
    assert open_model(tmp_path / "checkpoint_80", facts=FACTS).denoiser.image_shape == (3, 8, 8)


@pytest.mark.parametrize("low", [0x80, 0x85])
def test_a_header_of_any_length_is_a_header(low: int, tmp_path: Path):
    """Its lowest byte may be that of a pickle or of msgpack."""
    header, body = split(OURS)
    text = json.dumps(header).encode()
    text += b" " * ((low - len(text)) % 256)
    (tmp_path / "a.safetensors").write_bytes(with_text(text, body))
    assert open_model(tmp_path / "a.safetensors").denoiser.image_shape == (1, 8, 8)


def test_there_are_enough():
    assert len(SAFETENSORS) + len(MSGPACK) >= 100


@pytest.mark.parametrize("what", SAFETENSORS)
def test_a_safetensors_file_that_lies(what: str, tmp_path: Path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(SAFETENSORS[what])
    refused(file)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert file.read_bytes() == SAFETENSORS[what]


@pytest.mark.parametrize("what", MSGPACK)
def test_a_msgpack_file_that_lies(what: str, tmp_path: Path):
    file = tmp_path / "checkpoint_80"
    file.write_bytes(MSGPACK[what])
    refused(file)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_80"]


@pytest.mark.parametrize("share", range(0, 100, 10))
@pytest.mark.parametrize(("name", "content"), [("a.safetensors", OURS), ("checkpoint_80", JAXS)])
def test_a_file_cut_short(share: int, name: str, content: bytes, tmp_path: Path):
    (tmp_path / name).write_bytes(content[: len(content) * share // 100])
    refused(tmp_path / name)


# Fuzzing.


@st.composite
def damaged(draw: st.DrawFn, content: bytes, head: int) -> bytes:
    """Some bytes changed, cut out, doubled or put in, mostly in the first `head` of them."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        end = max(1, min(len(found), draw(st.sampled_from([16, head, head, len(content)]))))
        at = draw(st.integers(0, end - 1))
        match draw(st.integers(0, 4)):
            case 0:
                found[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del found[at : at + draw(st.integers(1, 40))]
            case 2:
                found[at:at] = draw(st.binary(max_size=8))
            case 3:
                other = draw(st.integers(0, end - 1))
                found[at:at] = found[other : other + draw(st.integers(1, 60))]
            case _:
                known = [b"\xff" * 4, b"9" * 9, b"-1", b"nan", b"[[", b"\x91\x91", b'"', b"1e999"]
                found[at : at + 1] = draw(st.sampled_from(known))
    return bytes(found)


def survives(name: str, content: bytes, folder: Path) -> None:
    """The file may open; any error but ours fails the test."""
    file = folder / name
    file.write_bytes(content)
    with suppress(CmtoolError):
        open_model(file, facts=FACTS if file.suffix != ".safetensors" else {})


def header_size(content: bytes) -> int:
    return 8 + int(struct.unpack("<Q", content[:8])[0])


FAST = settings(max_examples=50)
SLOW = settings(max_examples=3550)


@FAST
@given(damaged(OURS, header_size(OURS)))
def test_any_safetensors_file(folder: Path, content: bytes):
    survives("a.safetensors", content, folder)


@FAST
@given(damaged(JAXS, 4000))
def test_any_msgpack_file(folder: Path, content: bytes):
    survives("checkpoint_80", content, folder)


@pytest.mark.slow
@SLOW
@given(damaged(OURS, header_size(OURS)))
def test_thousands_of_safetensors_files(folder: Path, content: bytes):
    survives("a.safetensors", content, folder)


@pytest.mark.slow
@SLOW
@given(damaged(JAXS, 4000))
def test_thousands_of_msgpack_files(folder: Path, content: bytes):
    survives("checkpoint_80", content, folder)


@given(st.binary(max_size=200))
def test_any_bytes_as_msgpack(content: bytes):
    with suppress(CheckpointError):
        unpack(memoryview(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def test_a_configuration_of_other_kinds_of_values(tmp_path: Path):
    """Whole JSON with one value of another kind at a time."""
    header, body = split(OURS)
    config = json.loads(header["__metadata__"]["cmtool"])
    odd = [None, True, -1, 1e308, "x", "", [], {}, [[]], {"a": 1}, 10**30, [None], ["a", 1]]
    for key in config:
        for value in odd:
            header["__metadata__"]["cmtool"] = json.dumps(config | {key: value})
            survives("a.safetensors", with_text(json.dumps(header).encode(), body), tmp_path)
