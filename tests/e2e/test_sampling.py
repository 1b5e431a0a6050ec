"""Many images: over processes, killed, stopped, resumed; and the pictures that explain."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from cli_world import cmtool, environment, must, started
from PIL import Image
from two_processes import TORCHRUN

import cmtool as package
from cmtool import images
from cmtool.errors import CmtoolError, RecipeError
from cmtool.workflows import _sharded
from cmtool.workflows._output import open_draft
from cmtool.workflows._views import parse_variants


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Drawn(list[range]):
    """The images' numbers of each batch that was drawn; no more than `most` are."""

    most = 1000


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What is drawn; a batch too many is stopped as by Ctrl-C."""
    real, batches = _sharded.draw, Drawn()

    def draw(model, plan, numbers, *rest: object, **more: object) -> object:
        if len(batches) == batches.most:
            raise KeyboardInterrupt
        batches.append(numbers)
        return real(model, plan, numbers, *rest, **more)

    monkeypatch.setattr(_sharded, "draw", draw)
    return batches


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_step_of_a_diffusion_model_is_told_for_what_it_is(models: Path, here: Path):
    note = "note: one evaluation of a diffusion model gives the mean of all images"
    for model, steps, told in (("dm", "1", True), ("dm", "3", False), ("cm", "1", False)):
        out = f"{model}{steps}"
        done = cmtool("sample", str(models / model), "--steps", steps, "--n", "1", "--out", out)
        assert done.exit_code == 0
        assert (note in done.stderr) == told


# Shares.


def test_shares_cover_every_image_once(here: Path):
    """Whatever is drawn already, for every number of processes and every batch."""
    made = 0
    for n in (1, 7, 40):
        draft = open_draft(here / f"{n}.npz", n, (1, 2, 2))
        draft.begin({}, resume=False)
        for drawn in ([], [range(0, 3)], [range(2, 5), range(5, 6), range(9, 40)]):
            kept = [part for part in drawn if part.stop <= n]
            for part in draft.drawn():
                draft._part_file(part).unlink()
            for part in kept:
                draft.write(part, np.zeros((len(part), 2, 2, 1), np.uint8), None)
            for world in (1, 2, 3):
                for batch in (1, 4, 100):
                    shares = [draft.missing(batch, rank, world) for rank in range(world)]
                    numbers = [i for share in (*shares, kept) for part in share for i in part]
                    assert sorted(numbers) == list(range(n))
                    assert all(0 < len(part) <= batch for share in shares for part in share)
                    made += 1
    assert made == 81


@pytest.mark.multi
@pytest.mark.parametrize("out", ["o", pytest.param("o.npz", marks=pytest.mark.slow)])
def test_two_processes_draw_the_images_of_one(models: Path, here: Path, out: str):
    words = [str(models / "cm"), "--n", "11", "--batch-size", "2", "--out"]
    command = [*TORCHRUN, "-m", "--", "cmtool", "sample", *words, out]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"{out}\n") == 1, "two processes speak"
    must("sample", *words, f"alone-{out}")
    both, alone = Path(out), Path(f"alone-{out}")
    if out == "o":
        assert content(both) == content(alone)
        assert len(content(both)) == 11 + 2
    else:
        assert both.read_bytes() == alone.read_bytes()
    assert not list(here.glob(".*.part"))


@pytest.mark.multi
def test_if_one_process_fails_all_end_and_the_first_says_why(models: Path, here: Path):
    script = """
import os, sys
from cmtool.cli import main
from cmtool.errors import DataError
from cmtool.workflows import _sharded
draw, calls = _sharded.draw, []
def failing(*values, **more):
    calls.append(values)
    if os.environ["RANK"] == "1" and len(calls) == 2:
        raise DataError("the lamp went out")
    return draw(*values, **more)
_sharded.draw = failing
main()
"""
    Path("failing.py").write_text(script)
    command = [*TORCHRUN, "failing.py", "sample", str(models / "cm"), "--seed", "3"]
    more = ["--batch-size", "1", "--per-label", "4", "--out", "o.npz"]
    began = time.monotonic()
    done = subprocess.run(
        [*command, *more], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert time.monotonic() - began < 100
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith("error: process 1: the lamp went out; ")
    assert error.endswith(" of 40 images are kept in '.o.npz.part'")
    assert "hint: the same command with --resume goes on\n" in done.stderr
    again = ["sample", str(models / "cm"), "--seed", "3", *more]
    must(*again, "--resume")
    must(*again[:-1], "alone.npz")
    assert Path("o.npz").read_bytes() == Path("alone.npz").read_bytes()


def test_a_process_that_cannot_meet_the_others(
    models: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    done = cmtool("sample", str(models / "cm"), "--out", "o")
    assert done.exit_code == 2
    assert "error: 2 processes, but they cannot meet: " in done.stderr
    assert "hint: start them with torchrun or accelerate launch, or unset WORLD_SIZE" in done.stderr
    done = cmtool("sample", str(models / "cm"), "--compare", "@1,@2", "--out", "o.png")
    assert "error: this picture is drawn by one process\n" in done.stderr
    assert not list(here.iterdir())


# Killed, stopped, resumed.


@pytest.mark.parametrize(
    ("signum", "code", "out"),
    [
        (signal.SIGKILL, -9, "o"),
        (signal.SIGINT, 130, "o.npz"),
        pytest.param(signal.SIGTERM, 143, "o", marks=pytest.mark.slow),
    ],
)
def test_nothing_drawn_is_lost(
    signum: signal.Signals, code: int, out: str, models: Path, here: Path
):
    n, part = 2000, here / f".{out}.part"
    words = ["sample", str(models / "dm"), "--n", str(n), "--batch-size", "20", "--steps", "35"]
    process = started(
        here, lambda: len(list(part.glob("*.npz"))) >= 3, *words, "--out", out, "--seed", "5"
    )
    process.send_signal(signum)
    told = process.communicate()[1]
    assert process.returncode == code
    kept = sorted(part.glob("*.npz"))
    assert 3 <= len(kept) < n // 20
    if signum != signal.SIGKILL:
        assert told.endswith(
            f"error: stopped by signal {int(signum)}; {20 * len(kept)} of {n} images are kept in "
            f"'.{out}.part'\nhint: the same command with --resume goes on\n"
        )
    if code != -9:
        return
    before = {path: path.stat().st_mtime_ns for path in kept}
    process = started(
        here,
        lambda: len(list(part.glob("*.npz"))) > len(kept),
        *(*words, "--out", out, "--seed", "5", "--resume"),
    )
    process.kill()
    process.communicate()
    assert {path: path.stat().st_mtime_ns for path in kept} == before


@pytest.mark.parametrize("out", ["o", "o.png", "o.npz"])
def test_resumed_is_what_it_would_have_been(out: str, models: Path, here: Path, drawn: Drawn):
    words = ["sample", str(models / "cm"), "--n", "10", "--batch-size", "3"]
    must(*words, "--out", f"straight-{out}")
    drawn.clear()
    drawn.most = 2
    assert cmtool(*words, "--out", out).exit_code == 130
    part = Path(f".{out}.part")
    if out == "o":  # A torn file of the batch that was lost.
        (part / "images" / "00006.png").write_bytes(b"\x89PNG")
    (part / "00000006-00000009.tmp").write_bytes(b"PK")
    # Other options are refused, and so is a command that has forgotten --resume.
    for change, told in (
        (["--seed", "1"], "seed = 0 -> 1"),
        (["--n", "11"], "n = 10 -> 11"),
        (["--steps", "2"], "nfe = 1 -> 2; times = "),
        (["--label", "3"], "labels = [] -> [3]"),
        (["--weights", "student"], "weights = "),
    ):
        done = cmtool(*words, "--out", out, "--resume", *change)
        assert done.exit_code == 2
        assert f"error: '{out}' was begun with another request: {told}" in done.stderr
    done = cmtool(*words, "--out", out)
    assert f"error: '{out}' was begun already, in '{part}'\n" in done.stderr
    drawn.most = 1000
    done = cmtool(*words, "--out", out, "--resume")
    assert done.exit_code == 0, done.stderr
    straight = Path(f"straight-{out}")
    if out == "o":
        assert content(Path(out)) == content(straight)
    else:
        assert Path(out).read_bytes() == straight.read_bytes()
    assert not part.exists()
    assert [i for numbers in drawn for i in numbers] == list(range(10))
    done = cmtool(*words, "--out", out, "--resume")
    assert f"error: '{out}' is there already\n" in done.stderr
    done = cmtool(*words, "--out", f"other-{out}", "--resume")
    assert f"error: nothing to resume for 'other-{out}'\n" in done.stderr


def test_a_draft_is_found_without_its_name_and_begun_anew_by_overwrite(
    models: Path, here: Path, drawn: Drawn
):
    words = ["sample", str(models / "cm"), "--n", "4", "--batch-size", "2"]
    drawn.most = 1
    assert cmtool(*words).exit_code == 130
    drawn.most = 1000
    assert cmtool(*words).stdout.startswith("samples/cm-nfe1-2\n")
    assert cmtool(*words, "--resume").stdout.startswith("samples/cm-nfe1\n")
    assert "nothing to resume" in cmtool(*words, "--resume").stderr
    drawn.clear()
    drawn.most = 1
    assert cmtool(*words, "--out", "o").exit_code == 130
    drawn.most = 1000
    must(*words, "--out", "o", "--overwrite", "--seed", "1")
    assert sorted(p.name for p in Path("o").glob("0*.png")) == [f"0000{i}.png" for i in range(4)]
    assert not list(here.glob(".*.part"))


@pytest.mark.parametrize("out", ["o", "o.png", "o.npz"])
def test_a_damaged_batch_is_drawn_again(out: str, models: Path, here: Path, drawn: Drawn):
    """A machine that loses its power may leave files that are empty or cut."""
    words = ["sample", str(models / "cm"), "--n", "10", "--batch-size", "2"]
    must(*words, "--out", f"straight-{out}")
    drawn.clear()
    drawn.most = 4
    assert cmtool(*words, "--out", out).exit_code == 130
    part = Path(f".{out}.part")
    whole = (part / "00000000-00000002.npz").read_bytes()
    damage = {"00000000-00000002": b"", "00000002-00000004": whole[:-30], "a-b": whole}
    for name, data in damage.items():
        (part / f"{name}.npz").write_bytes(data)
    if out == "o":
        (part / "images" / "00005.png").write_bytes(b"")
    drawn.clear()
    must(*words, "--out", out, "--resume")
    assert [*map(list, drawn)][:2] == [[0, 1], [2, 3]]
    assert len(drawn) == (4 if out == "o" else 3)
    straight = Path(f"straight-{out}")
    if out == "o":
        assert content(Path(out)) == content(straight)
    else:
        assert Path(out).read_bytes() == straight.read_bytes()


def test_a_damaged_request_is_an_error(models: Path, here: Path):
    words = ["sample", str(models / "cm"), "--n", "4", "--out", "o.npz"]
    Path(".o.npz.part").mkdir()
    for text in ("{", "[]", ""):
        Path(".o.npz.part/request.json").write_text(text)
        done = cmtool(*words, "--resume")
        assert done.exit_code == 2
        assert "error: '.o.npz.part/request.json' is damaged\n" in done.stderr
    must(*words, "--overwrite")
    assert os.listdir() == ["o.npz"]


def test_any_batch_size_draws_the_same_images(models: Path, here: Path):
    drawn = []
    for batch in (1, 4, 9, 50):
        must(
            *("sample", str(models / "cm"), "--n", "9"),
            *("--batch-size", str(batch), "--out", f"{batch}.npz"),
        )
        with np.load(f"{batch}.npz") as archive:
            assert archive["arr_0"].shape == (9, 8, 8, 1)
            drawn.append((archive["arr_0"].astype(int), archive["arr_1"]))
    for pixels, labels in drawn[1:]:
        # The last bit of a sum may differ, so one grey level may.
        assert np.abs(pixels - drawn[0][0]).max() <= 1
        assert np.array_equal(labels, drawn[0][1])


# Pictures.


def pixels_of(model: Path, n: int, **how: int) -> np.ndarray:
    return images.to_uint8(package.sample(model, n, **how)).permute(0, 2, 3, 1).numpy()


def place(picture: np.ndarray, sheet: np.ndarray) -> tuple[int, int] | None:
    height, width = sheet.shape[:2]
    for top in range(picture.shape[0] - height + 1):
        for left in range(picture.shape[1] - width + 1):
            if np.array_equal(picture[top : top + height, left : left + width], sheet):
                return top, left
    return None


def test_each_cell_of_a_comparison_is_the_image_drawn_alone(models: Path, here: Path):
    cm, dm = models / "cm", models / "dm"
    done = cmtool(
        *("sample", str(cm), "--compare", f"@1,@3,{dm}@9", "--n", "5", "--seed", "2"),
        *("--solver", "euler", "--out", "c.png"),
    )
    assert (done.exit_code, done.stdout) == (0, "c.png\n"), done.stderr
    picture = np.asarray(Image.open("c.png").convert("RGB"))
    must(
        "sample",
        str(dm),
        "--steps",
        "9",
        "--solver",
        "euler",
        "--n",
        "5",
        "--seed",
        "2",
        "--out",
        "d.npz",
    )
    rows = [pixels_of(cm, 5, steps=1, seed=2), pixels_of(cm, 5, steps=3, seed=2)]
    rows.append(np.load("d.npz")["arr_0"])
    sheet = images.with_channels(images.grid(np.concatenate(rows), 5), 3)
    assert place(picture, sheet) is not None
    assert "cm-" not in done.stderr
    assert done.stderr.count("NFE ") == 3


def test_models_that_cannot_be_compared(models: Path, here: Path):
    cm = str(models / "cm")
    must("train", str(models / "dm.toml"), "--set", "data.conditional=false", "--out", "plain")
    must("sample", cm, "--compare", "plain@3,@1", "--n", "2", "--out", "c.png")
    must(
        *("train", str(models / "dm.toml"), "--set", "data.conditional=false"),
        *("--set", "data.image_size=16", "--out", "large"),
    )
    for words, told in (
        (["--compare", "@1,large@3", "--out", "d.png"], "--compare: the models' images differ: "),
        (["--compare", "@x"], "--compare: '@x' is not MODEL, MODEL@STEPS or @STEPS"),
        (["--compare", "@0"], "--compare: '@0' is not MODEL, MODEL@STEPS or @STEPS"),
        (["--compare", "@1", "--out", "c.png"], "'c.png' is there already"),
        (["--compare", "@1", "--out", "c.npz"], "cannot write this picture to 'c.npz'"),
        (["--trajectory", "--out", "c.npz"], "cannot write this picture to 'c.npz'"),
        (["--trajectory", "--compare", "@1"], "--compare and --trajectory exclude each other"),
        (["--trajectory", "--resume"], "--resume is for many images, not for one picture"),
        (["--compare", "nosuch@1"], "there is no model 'nosuch'"),
    ):
        done = cmtool("sample", cm, *words)
        assert done.exit_code == 2
        assert f"error: {told}" in done.stderr


@pytest.mark.parametrize("text", ["", ",", "a@1.5", "a@-1", "@", "a@1,,b", "a@²"])
def test_what_is_no_variant(text: str):
    with pytest.raises(RecipeError, match="--compare"):
        parse_variants(text)


@pytest.mark.parametrize("text", ["a", "a@2,b@35", "user@host/run@4"])
def test_variants(text: str):
    for (model, steps), part in zip(parse_variants(text), text.split(","), strict=True):
        assert (str(model) if steps is None else f"{model}@{steps}") == part


@pytest.mark.parametrize(("model", "steps", "levels"), [("cm", 3, 3), ("dm", 8, 5)])
def test_the_path_ends_at_the_image(model: str, steps: int, levels: int, models: Path, here: Path):
    """8 evaluations of Heun: 3 steps on 4 levels, then Euler's, then the last; 5 levels in all."""
    run = models / model
    words = ["sample", str(run), "--trajectory", "--steps", str(steps), "--n", "2", "--seed", "4"]
    must(*words, "--out", "p.gif")
    must(*words, "--out", "p.png")
    final = pixels_of(run, 2, steps=steps, seed=4)
    with Image.open("p.gif") as gif:
        assert gif.n_frames <= levels + 1
        gif.seek(gif.n_frames - 1)
        last = np.asarray(gif.convert("RGB"))
    assert place(last, images.with_channels(images.grid(final, 2), 3)) is not None
    strip = np.asarray(Image.open("p.png").convert("RGB"))
    cells = cells_of(strip, rows=4, columns=levels + 1)
    for i in range(2):
        noisy, estimate = cells[2 * i], cells[2 * i + 1]
        assert np.array_equal(estimate[-1], final[i])
        assert np.array_equal(noisy[-1], final[i])
        assert np.array_equal(estimate[-2], final[i]), "the last estimate is the image"
        spread = [float(np.abs(cell.astype(int) - final[i]).mean()) for cell in noisy]
        assert spread[0] > spread[-2] or model == "cm"


def cells_of(strip: np.ndarray, rows: int, columns: int) -> list[list[np.ndarray]]:
    """The tiles of a strip, (8, 8, 1) each: the lower right corner of the sheet is known."""
    bottom, right = strip.shape[0] - 10, strip.shape[1] - 10
    for side in range(32, 200, 8):
        top, left = bottom - rows * (side + 2) + 2, right - columns * (side + 2) + 2
        if left < 0 or top < 0:
            break
        sheet = strip[top:bottom, left:right, :1]
        cells = [
            [sheet[r * (side + 2) :, c * (side + 2) :][:side, :side] for c in range(columns)]
            for r in range(rows)
        ]
        small = [[cell[:: side // 8, :: side // 8] for cell in row] for row in cells]
        if all(
            np.array_equal(tiny.repeat(side // 8, 0).repeat(side // 8, 1), cell)
            for row, smalls in zip(cells, small, strict=True)
            for cell, tiny in zip(row, smalls, strict=True)
        ):
            return small
    raise AssertionError("no tiles of one size")


def test_the_request_is_written_down(models: Path, here: Path):
    draft = open_draft(here / "o.npz", 4, (1, 2, 2))
    draft.begin({"seed": 3}, resume=False)
    assert json.loads((here / ".o.npz.part" / "request.json").read_text()) == {"seed": 3}
    with pytest.raises(CmtoolError, match=r"another request: seed = 3 -> 4$"):
        draft.begin({"seed": 4}, resume=True)
