"""A folder with good models, broken models, bad data and bad recipes, for the tests of commands."""

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

SMALL = """
[network]
name = "tiny"
width = 16
multipliers = [1]
blocks = 1

[loss]
name = "dsm"

[data]
name = "digits"

[train]
steps = 2
batch_size = 4
ema = [0.99]
device = "cpu"
"""
SMALL_CD = SMALL[SMALL.index("[loss]") :].replace("dsm", "cd")
COMMAND = [sys.executable, "-m", "cmtool"]
HEAVY = {
    *("torch", "torchvision", "numpy", "PIL", "accelerate", "lpips", "cleanfid", "safetensors"),
    *("scipy", "pandas", "matplotlib"),
}
PATIENCE = 300.0
"""Seconds that a command may take to begin."""


class Bomb:
    """Unpickling it would create the file `ran`."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, ("ran", "w")


def cmtool(*words: str) -> Result:
    """Runs a command in this process; stdout and stderr apart."""
    from cmtool.cli import app

    return CliRunner().invoke(app, words, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})


def must(*words: str) -> None:
    done = cmtool(*words)
    assert done.exit_code == 0, done.stderr


def environment() -> dict[str, str]:
    """Of a command in a process of its own."""
    return os.environ | {"CMTOOL_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def started(folder: Path, until: Callable[[], bool], *words: str) -> subprocess.Popen[str]:
    """A command that runs, once `until` holds."""
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    give_up = time.monotonic() + PATIENCE
    while not until():
        if process.poll() is not None or time.monotonic() > give_up:
            process.kill()
            raise AssertionError(process.communicate()[1])
        time.sleep(0.02)
    return process


def printed_lightly(words: Sequence[str], **variables: str) -> str:
    """What a command prints in a process of its own, where it may import nothing heavy."""
    code = f"""
import sys
from cmtool.cli import main
sys.argv = ["cmtool", *{list(words)}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
found = {HEAVY} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def make_world(folder: Path) -> None:
    """Fills the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        good_models()
        broken_runs()
        broken_files()
        bad_data()
        bad_recipes()
        pictures()


def good_models() -> None:
    """dm and classes: diffusion models of digits; cm: a consistency model; cc: one of
    coloured images; single files of dm."""
    from cmtool import checkpoint

    Path("small.toml").write_text(SMALL)
    Path("small-cd.toml").write_text(SMALL_CD)
    must("train", "small.toml", "--out", "dm")
    must("distill", "small-cd.toml", "--teacher", "dm", "--out", "cm")
    must("train", "small.toml", "--set", "data.conditional=true", "--out", "classes")
    colours("colours", 4, 8)
    Path("small-cc.toml").write_text(SMALL.replace("dsm", "ict").replace("digits", "colours"))
    must("train", "small-cc.toml", "--out", "cc")
    opened = checkpoint.Checkpoint.open(Path("dm"))
    weights = opened.weights("student")
    for name in ("whole.safetensors", "whole.pt"):
        checkpoint.write_file(Path(name), opened.meta, opened.recipe, weights)


def colours(folder: str, count: int, side: int) -> None:
    """A folder of coloured pictures."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    Path(folder).mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{folder}/{i}.png")


def broken_runs() -> None:
    """Copies of dm, each with one thing wrong in its checkpoint."""

    def copy(name: str) -> Path:
        shutil.copytree("dm", name)
        return Path(name, "step-00000002")

    def edit(file: Path, old: str, new: str) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    Path("folder").mkdir()
    weights = copy("flipped") / "ema-0.99.safetensors"
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    (copy("no-weights") / "ema-0.99.safetensors").unlink()
    (copy("no-resume") / "resume" / "state.pt").unlink()
    state = copy("cut-resume") / "resume" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    (copy("no-recipe") / "recipe.toml").unlink()
    (copy("cut-meta") / "meta.json").write_text('{"format": 1, "kind": "diff')
    (copy("list-meta") / "meta.json").write_text("[1, 2]")
    edit(copy("new-format") / "meta.json", '"format": 1', '"format": 7')
    edit(copy("odd-kind") / "meta.json", '"kind": "diffusion"', '"kind": "diffusing"')
    edit(copy("odd-shape") / "meta.json", '"image_shape": [', '"image_shape": [7,')
    edit(copy("cut-recipe") / "recipe.toml", "[loss]", "[loss")
    edit(copy("odd-recipe") / "recipe.toml", "width = 16", "widht = 16")
    edit(copy("wider") / "recipe.toml", "width = 16", "width = 32")
    edit(copy("old-latest").parent / "latest", "step-00000002", "step-00000009")
    shutil.rmtree(copy("no-meta").parent / "step-00000002")


def broken_files() -> None:
    """Files that are no models, or not any more."""
    import torch
    from PIL import Image
    from safetensors.torch import load_file, save_file

    for name in ("empty.pt", "empty.safetensors"):
        Path(name).touch()
    Path("text.pt").write_text("once upon a time")
    Path("text.safetensors").write_text("once upon a time")
    Path("page.pt").write_text("<!DOCTYPE html><html><body>404</body></html>")
    Path("pointer.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    )
    Image.new("RGB", (8, 8)).save("picture.png")
    Image.new("RGB", (8, 8)).save("picture.jpg")
    Path("packed.pt").write_bytes(gzip.compress(b"weights"))
    Path("model.pkl").write_bytes(pickle.dumps({"ema": Bomb()}))
    Path("code.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"a": Bomb()}, "objects.pt")
    torch.save([1, 2], "list.pt")
    torch.save(7, "int.pt")
    torch.save({"a": 1}, "numbers.pt")
    torch.save({"a": torch.zeros(2)}, "foreign.pt")
    with zipfile.ZipFile("archive.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for name in ("whole.pt", "whole.safetensors"):
        content, path = Path(name).read_bytes(), Path(name)
        for share in (1, 50, 99):
            cut = path.with_name(f"cut{share}{path.suffix}")
            cut.write_bytes(content[: len(content) * share // 100])
    tensors = load_file("whole.safetensors")
    save_file(tensors, "foreign.safetensors")
    header = header_of("whole.safetensors")
    few = dict(list(tensors.items())[3:]) | {"more": torch.zeros(1)}
    save_file(few, "few.safetensors", metadata={"cmtool": header})
    save_file(tensors, "header.safetensors", metadata={"cmtool": header[:40]})
    fields = json.loads(header)
    for name, change in {"future": {"format": 7}, "recipe": {"recipe": "[loss"}}.items():
        save_file(tensors, f"{name}.safetensors", metadata={"cmtool": json.dumps(fields | change)})


def header_of(name: str) -> str:
    content = Path(name).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return str(json.loads(content[8 : 8 + size])["__metadata__"]["cmtool"])


def bad_data() -> None:
    """Folders and archives of images that cannot be trained on, and files for figures."""
    import numpy as np
    from PIL import Image

    def save(name: str, size: tuple[int, int], mode: str = "RGB") -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 128 if mode == "L" else (128, 0, 0)).save(name)

    Path("nothing").mkdir()
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("a")
    for i in range(4):
        save(f"colour/{i}.png", (8, 8))
        save(f"large/{i}.png", (16, 16), "L")
        save(f"three/{'abc'[i % 3]}/{i}.png", (8, 8), "L")
        save(f"sizes/{i}.png", (8 + i, 8 + i))
        save(f"oblong/{i}.png", (8, 6))
        save(f"hollow/{i}.png", (8, 8))
        save(f"cut/{i}.png", (8, 8))
    Path("hollow/2.png").write_bytes(b"")
    Path("cut/1.png").write_bytes(Path("cut/0.png").read_bytes()[:50])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write("colour/0.png")
    Path("cut.zip").write_bytes(buffer.getvalue()[:60])
    np.savez("images.npz", arr_0=np.zeros((6, 8, 8, 1), np.uint8))
    np.savez("larger.npz", arr_0=np.zeros((6, 16, 16, 1), np.uint8))
    np.savez("statistics.npz", mu=np.zeros(3), sigma=np.eye(3))
    Path("text.npz").write_text("text")
    Path("report.json").write_text("{}")


def pictures() -> None:
    """For the editors: pics/, of which some are no pictures."""
    import numpy as np
    from PIL import Image

    colours("pics", 2, 20)
    Path("pics", "0.png").rename("rgb.png")
    Path("pics", "1.png").rename("other.png")
    rgb = Image.open("rgb.png")
    rgb.convert("L").resize((8, 8)).save("grey.png")
    rgb.convert("L").save("large.png")
    Image.new("L", (20, 20)).save("black.png")
    hole = np.zeros((20, 20), dtype=np.uint8)
    hole[6:12, 5:15] = 255
    Image.fromarray(hole).save("mask.png")
    Image.new("L", (5, 5), 255).save("little.png")
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save("float.tif")
    content = Path("rgb.png").read_bytes()
    Path("cut.png").write_bytes(content[:200])
    Path("flipped.png").write_bytes(content[:100] + b"xxxx" + content[104:])
    start = struct.pack(">I4sIIBBBBB", 13, b"IHDR", 40_000, 40_000, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(start[4:]))
    Path("bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + start + crc + content[33:])
    Path("text.png").write_text("once upon a time")
    Path("empty.png").touch()
    Path("grey.colorize.png").touch()
    Path("prose").mkdir()
    Path("prose", "a.txt").write_text("once upon a time")
    colours("mixed", 2, 8)
    shutil.copy("cut.png", "mixed/cut.png")
    shutil.copy("prose/a.txt", "mixed/a.txt")


def bad_recipes() -> None:
    """Recipe files with mistakes."""
    Path("toml.toml").write_text(SMALL + "[train\n")
    Path("keys.toml").write_text(SMALL + "batchsize = 4\nlr = 'fast'\nsave_every = 0\n")
    Path("no-network.toml").write_text(SMALL[SMALL.index("[loss]") :])
    Path("no-data.toml").write_text(SMALL.replace('[data]\nname = "digits"\n', ""))
    Path("empty.toml").touch()
    Path("binary.toml").write_bytes(b"\xff\xfe\x00")


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time of change."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(root, name))
            found[os.path.relpath(os.path.join(root, name), folder)] = (
                status.st_size,
                status.st_mtime_ns,
            )
    return found
