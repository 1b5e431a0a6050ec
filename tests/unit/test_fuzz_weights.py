"""Mutated weight files: whatever is in them, only errors for users come out and nothing runs."""

import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cmtool
from cmtool.errors import CmtoolError
from cmtool.pickled import MAX_STEPS, Refused, read
from tests import nvidia_files as made

# Instructions that a pickle can hold, and parts of pickles that run something.
OPCODES = bytes(range(0x80, 0x99)) + b"().0123BCFGIJKLMNPQRSTUVX]abcdeghijlopqrstu}"
ATTACKS = (
    b"cos\nsystem\n",
    b"\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch canary\x85R",
    b"cbuiltins\neval\n",
    b"cbuiltins\ngetattr\n",
    made.code(made.call("os.system", "touch canary")),
    struct.pack("<Q", 2**40),
    b"\xff" * 4,
    b"\x8e" + struct.pack("<Q", 2**40),
    b"(" * 50,
    b"2" * 50,
)
BASES = {
    "pickle": made.pickle_of(made.snapshot(made.small())),
    "archive": made.training_state(),
    "old": made.blob(made.small_weights()["model.map_layer0.weight"]),
}
HEAD = 3000
"""Bytes at the start of which mutations are likelier: the rest is mostly numbers."""


@st.composite
def edits(draw: st.DrawFn) -> tuple[tuple[str, float, int, bytes], ...]:
    """What to do to a file: kinds of change with a place in 0 .. 1, a size and some bytes."""
    kinds = ("flip", "opcode", "splice", "cut", "repeat", "remove", "insert", "attack")
    one = st.tuples(
        st.sampled_from(kinds),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.sampled_from(ATTACKS) | st.binary(max_size=12),
    )
    return tuple(draw(st.lists(one, min_size=1, max_size=4)))


def mutated(content: bytes, changes: tuple[tuple[str, float, int, bytes], ...]) -> bytes:
    """A file after the changes."""
    held = bytearray(content)
    for kind, place, size, extra in changes:
        if not held:
            break
        reach = min(HEAD, len(held)) if size % 2 else len(held)
        at = int(place * reach)
        if kind == "flip":
            held[at] ^= 1 << (size % 8)
        elif kind == "opcode":
            held[at] = OPCODES[size % len(OPCODES)]
        elif kind == "splice":
            other = int((1 - place) * reach)
            held[at : at + size] = held[other : other + size]
        elif kind == "cut":
            del held[at:]
        elif kind == "repeat":
            held[at:at] = held[at : at + size] * 3
        elif kind == "remove":
            del held[at : at + size]
        elif kind == "insert":
            held[at:at] = extra
        else:
            held[at : at + len(extra)] = extra
    return bytes(held)


def inside(content: bytes, changes: tuple[tuple[str, float, int, bytes], ...]) -> bytes:
    """An archive whose pickle was changed and whose checksums are right."""
    made_anew = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as old, zipfile.ZipFile(made_anew, "w") as new:
        for name in old.namelist():
            held = old.read(name)
            new.writestr(name, mutated(held, changes) if name.endswith("data.pkl") else held)
    return made_anew.getvalue()


@contextmanager
def quiet(folder: Path) -> Iterator[Path]:
    """A file to load in a folder where nothing else may appear."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield folder / "model.pkl"
    finally:
        os.chdir(before)


def load(folder: Path, content: bytes) -> None:
    with quiet(folder) as file:
        file.write_bytes(content)
        with suppress(CmtoolError):
            model = cmtool.load(file, device="cpu")
            assert all(torch.is_tensor(tensor) for tensor in model.state().values())
        assert os.listdir(folder) == ["model.pkl"]


def check(folder: Path, base: str, changes: tuple[tuple[str, float, int, bytes], ...]) -> None:
    change = inside if base == "inside" else mutated
    load(folder, change(BASES["archive" if base == "inside" else base], changes))


KINDS = st.sampled_from([*BASES, "inside"])
UNHURRIED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=100, suppress_health_check=UNHURRIED)
@given(base=KINDS, changes=edits())
def test_a_mutated_file_is_an_error_or_a_model(tmp_path, base, changes):
    check(tmp_path, base, changes)


@pytest.mark.slow
@settings(max_examples=4600, suppress_health_check=UNHURRIED)
@given(base=KINDS, changes=edits())
def test_many_mutated_files(tmp_path, base, changes):
    check(tmp_path, base, changes)


@pytest.mark.slow
@settings(max_examples=1000, suppress_health_check=UNHURRIED)
@given(changes=edits())
def test_many_mutations_of_a_golden_file(tmp_path, golden, changes):
    file = next(iter(sorted(golden.glob("*.pkl"))))
    load(tmp_path, mutated(file.read_bytes(), changes))


@settings(max_examples=300)
@given(
    program=st.lists(
        st.sampled_from(sorted(OPCODES)).map(lambda code: bytes([code]))
        | st.binary(max_size=6)
        | st.sampled_from(ATTACKS),
        max_size=60,
    )
)
def test_any_program_ends(program):
    with suppress(Refused):
        read(b"\x80\x04" + b"".join(program) + b".", lambda name: name != "os.system")


def test_a_program_without_an_end_ends():
    with pytest.raises(Refused, match="takes more than"):
        read(b"\x80\x04" + b"]" + b"Na" * MAX_STEPS, lambda name: False)


def test_the_bases_are_models(tmp_path):
    for name in ("pickle", "archive"):
        (tmp_path / "model.pkl").write_bytes(BASES[name])
        assert cmtool.load(tmp_path / "model.pkl", device="cpu").num_classes == made.CLASSES
