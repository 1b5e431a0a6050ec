"""No mistake of a user gives a traceback: each gives one message and an exit code, and leaves
nothing on the disk."""

import errno
import os
import pickle
import random
import re
import resource
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from cli_world import cmtool, tree

from cmtool.errors import CmtoolError


class Mistake(NamedTuple):
    command: str
    exit_code: int
    answer: str


def mistakes() -> Iterator[Mistake]:
    for file in sorted(Path(__file__).parent.glob("bad_*.txt")):
        text = re.sub(r"^# .*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for block in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            first, _, answer = block.partition("\n")
            command, _, code = first.partition(" -> ")
            yield Mistake(command, int(code or 2), answer.strip())


MISTAKES = list(mistakes())


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of good and bad files; no command may change it."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("CMTOOL_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    before = tree(world)
    yield world
    assert tree(world) == before


def no_traceback(done) -> None:
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_there_are_enough():
    assert len(MISTAKES) > 150
    assert len({m.command for m in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize("mistake", MISTAKES, ids=[m.command for m in MISTAKES])
def test_a_mistake_gets_its_message(mistake: Mistake, here: Path):
    if "--device cuda" in mistake.command:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    done = cmtool(*shlex.split(mistake.command))
    no_traceback(done)
    assert done.exit_code == mistake.exit_code
    answer = done.stderr[done.stderr.index("error: ") :].strip()
    pattern = re.escape(mistake.answer).replace("<any>", ".+")
    assert re.fullmatch(pattern, answer), f"expected\n{mistake.answer}\ngot\n{answer}"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("smaple cm", ["smaple", "sample"]),
        ("sample cm --stesp 2", ["--stesp", "--steps"]),
        ("sample cm extra", ["extra"]),
        ("sample cm --steps x", ["--steps"]),
        ("sample cm --n 1.5", ["--n"]),
        ("sample cm --steps", ["--steps"]),
        ("train small.toml --precision fp61", ["fp61", "fp16"]),
        ("train small.toml --tracker foo", ["foo", "tensorboard"]),
        ("train small.toml --max-steps many", ["--max-steps"]),
        ("train small.toml --lr fast", ["--lr"]),
        ("train small.toml --teacher dm", ["--teacher"]),
        ("--list", ["--list"]),
        ("--vresion", ["--vresion", "--version"]),
    ],
)
def test_what_the_parser_refuses(command: str, words: list[str], here: Path):
    done = cmtool(*shlex.split(command))
    no_traceback(done)
    assert done.exit_code == 2
    for word in words:
        assert word in done.stderr


def test_the_pickles_would_run_code(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # The tests above would not notice a bomb that does nothing.
    bomb = Path("code.pt").read_bytes()
    monkeypatch.chdir(tmp_path)
    pickle.loads(bomb).close()
    assert (tmp_path / "ran").exists()


def test_debug_shows_where_an_error_came_from(here: Path):
    done = cmtool("--debug", "sample", "nosuch")
    assert isinstance(done.exception, CmtoolError)
    done = cmtool("--debug", "--list", "xyz")
    assert isinstance(done.exception, CmtoolError)


def test_an_error_of_ours_is_a_traceback(here: Path, monkeypatch: pytest.MonkeyPatch):
    import cmtool.workflows._sharded as workflow

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(workflow, "draw", broken)
    assert isinstance(cmtool("sample", "cm", "--out", "o.png").exception, RuntimeError)


# Damage at many places.


def opens_or_says_why(path: Path) -> bool:
    from cmtool.workflows.load import open_model

    try:
        open_model(path)
    except CmtoolError:
        return False
    return True


@pytest.mark.parametrize("name", ["whole.safetensors", "whole.pt"])
def test_a_file_cut_anywhere_is_an_error(name: str, here: Path, tmp_path: Path):
    content = Path(name).read_bytes()
    path = tmp_path / name
    for size in (0, 1, 7, 8, 9, 100, *range(1000, len(content), len(content) // 40)):
        path.write_bytes(content[:size])
        assert not opens_or_says_why(path), size


@pytest.mark.parametrize("name", ["whole.safetensors", "whole.pt"])
def test_a_file_with_wrong_bytes_never_crashes(name: str, here: Path, tmp_path: Path):
    content = Path(name).read_bytes()
    random.seed(0)
    path = tmp_path / name
    for _ in range(200):
        damaged = bytearray(content)
        # Half of the damage hits the header, which is small.
        end = random.choice([1500, len(content)])
        for _ in range(random.choice([1, 3])):
            damaged[random.randrange(end)] = random.randrange(256)
        path.write_bytes(damaged)
        opens_or_says_why(path)


@pytest.mark.parametrize("name", ["meta.json", "recipe.toml"])
def test_a_checkpoint_with_wrong_text_never_crashes(name: str, here: Path, tmp_path: Path):
    shutil.copytree("dm", tmp_path / "run")
    file = tmp_path / "run" / "step-00000002" / name
    content = file.read_bytes()
    random.seed(0)
    for _ in range(200):
        at = random.randrange(len(content))
        cut = random.choice([0, 1, 5, 40])
        more = random.choice(
            [b"", b"0", b"-", b'"', b"[", b"{}", b"null", b"\xff", b"\n", b"1e999"]
        )
        file.write_bytes(content[:at] + more + content[at + cut :])
        opens_or_says_why(tmp_path / "run")


# The disk and the machine.


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: what a full disk does, for every library alike."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("out", ["o", "o.png", "o.npz"])
def test_full_disk_while_sampling(out: str, here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "replace", full)
    done = cmtool("sample", "cm", "--n", "4", "--out", out)
    no_traceback(done)
    assert done.exit_code == 2
    assert done.stderr.endswith(
        f"error: cannot write '{out}': no space left on device\nhint: free space or another --out\n"
    )


@pytest.mark.parametrize(("out", "limit"), [("o", 60), ("o.png", 400), ("o.npz", 400)])
def test_no_room_from_the_first_image_on(out: str, limit: int, here: Path):
    with small_files(limit):
        done = cmtool("sample", "cm", "--n", "40", "--batch-size", "3", "--out", out)
    no_traceback(done)
    assert done.exit_code == 2
    assert done.stderr.endswith(
        f"error: cannot write '{out}': file too large\nhint: free space or another --out\n"
    )


@pytest.mark.parametrize("out", ["o.png", "o.npz"])
def test_no_room_at_the_end_keeps_the_images(
    out: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = ["sample", str(here / "cm"), "--n", "40", "--batch-size", "3", "--out", out]
    monkeypatch.chdir(tmp_path)
    with small_files(1500):  # A batch fits, all images do not.
        done = cmtool(*command)
    no_traceback(done)
    assert done.exit_code == 2
    assert done.stderr.endswith(
        f"error: cannot write '{out}': file too large; 40 of 40 images are kept in '.{out}.part'\n"
        "hint: free space or another --out; the same command with --resume goes on\n"
    )
    assert cmtool(*command, "--resume").stdout == f"{out}\n"
    assert os.listdir() == [out]


@pytest.mark.parametrize("out", ["o", "o.png", "o.npz"])
@pytest.mark.parametrize("finished", [0, 1])
def test_an_impatient_ctrl_c_while_sampling(
    out: str, finished: int, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One that is not only noted: the batch is lost, finished ones are not."""
    import cmtool.workflows._sharded as workflow

    command = ["sample", str(here / "cm"), "--n", "4", "--batch-size", "2", "--out", out]
    monkeypatch.chdir(tmp_path)
    real, calls = workflow.draw, []

    def interrupted(*values: object, **more: object) -> object:
        calls.append(values)
        if len(calls) > finished:
            raise KeyboardInterrupt
        return real(*values, **more)

    monkeypatch.setattr(workflow, "draw", interrupted)
    done = cmtool(*command)
    no_traceback(done)
    assert done.exit_code == 130
    kept = f"; 2 of 4 images are kept in '.{out}.part'" if finished else ""
    hint = "with --resume goes on" if finished else "begins again"
    assert done.stderr.endswith(f"error: stopped at once{kept}\nhint: the same command {hint}\n")
    assert os.listdir() == ([f".{out}.part"] if finished else [])


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("cmtool.workflows.eval_classes.open_one", "eval classes --model cm"),
        ("cmtool.workflows.edit.make_editor", "edit colorize rgb.png"),
        ("cmtool.workflows.fit.fit", "train small.toml --max-steps 1"),
    ],
)
def test_ctrl_c_where_nobody_waits_for_it(
    place: str, words: str, here: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    done = cmtool(*words.split())
    no_traceback(done)
    assert done.exit_code == 130
    assert done.stderr.endswith(
        "error: stopped; what was saved before is kept\n"
        "hint: the same command begins again, or says how to go on\n"
    )


@pytest.mark.parametrize("limit", [3000, 30_000])
def test_full_disk_at_the_first_checkpoint(limit: int, here: Path, tmp_path: Path):
    run = tmp_path / "run"
    with small_files(limit):
        done = cmtool("train", "small.toml", "--out", str(run))
    no_traceback(done)
    assert done.exit_code == 2
    assert f"error: cannot write the checkpoint {run}/step-00000002: " in done.stderr
    assert "hint: free some space\n" in done.stderr
    assert not list(run.glob("step-*"))


def test_full_disk_keeps_the_last_checkpoint(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from cmtool import checkpoint

    run = tmp_path / "run"
    real = checkpoint.save_file
    written = []

    def second_fails(tensors, path, *rest, **more) -> None:
        written.append(path)
        if len(written) > 3:
            full()
        real(tensors, path, *rest, **more)

    monkeypatch.setattr(checkpoint, "save_file", second_fails)
    done = cmtool("train", "small.toml", "--out", str(run), "--save-every", "1")
    assert done.exit_code == 2
    assert "no space left on device" in done.stderr.lower()
    assert [path.name for path in run.glob("step-*")] == ["step-00000001"]
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert cmtool("sample", str(run), "--n", "1", "--out", str(tmp_path / "o.png")).exit_code == 0


def test_a_batch_that_does_not_fit_in_memory(here: Path, tmp_path: Path):
    run = str(tmp_path / "run")
    done = cmtool("train", "small.toml", "--batch-size", str(10**15), "--out", run)
    no_traceback(done)
    assert done.exit_code == 1
    assert "error: out of memory\nhint: a smaller --batch-size or network; " in done.stderr


def test_a_tracker_that_is_not_installed(here: Path, monkeypatch: pytest.MonkeyPatch):
    from cmtool.workflows import _machine

    monkeypatch.setattr(_machine, "is_wandb_available", lambda: False)
    done = cmtool("train", "small.toml", "--tracker", "wandb", "--out", "o")
    no_traceback(done)
    assert done.exit_code == 2
    assert done.stderr == (
        "error: tracker 'wandb' is not installed\nhint: pip install 'cmtool[wandb]'\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("out", ["locked/o", "locked/o.png", "locked/o.npz"])
def test_a_folder_that_is_not_writable(out: str, here: Path, tmp_path: Path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = cmtool("sample", "cm", "--n", "4", "--out", str(tmp_path / out))
    no_traceback(done)
    assert done.exit_code == 2
    assert f"error: cannot write '{tmp_path / out}': permission denied\n" in done.stderr
