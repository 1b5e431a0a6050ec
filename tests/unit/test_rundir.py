"""Two runs never train into one folder; a run that was killed keeps nobody out."""

import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmtool import images
from cmtool.errors import CheckpointError
from cmtool.workflows import _rundir
from cmtool.workflows.fit import Job, Listeners, fit
from cmtool.workflows.info import describe
from cmtool.workflows.train import plan

OTHER = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
print("process 7 on a-node", file=file, end="", flush=True)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def run(tmp_path):
    small = ("network.width=8", "network.blocks=1", "train.steps=1", "train.batch_size=2")
    job = Job("digits/dsm", overrides=small, out=tmp_path / "run", overwrite=True)
    fit(plan(job, None, {}, Listeners()), Listeners())
    return job


def test_a_second_run_is_kept_out_until_the_first_has_died(run):
    def content() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in sorted(run.out.rglob("*")) if p.is_file()}

    before = content()
    assert run.out / "lock" not in before
    words = [sys.executable, "-c", OTHER, str(run.out / "lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match="process 7 on a-node trains into") as no:
            fit(plan(run, None, {}, Listeners()), Listeners())
        other.send_signal(signal.SIGKILL)
    assert no.value.hint == f"wait for it, or --out {run.out}-2 is free"
    kept = content()
    assert kept.pop(run.out / "lock") == b"process 7 on a-node"
    assert kept == before
    fit(plan(run, None, {}, Listeners()), Listeners())
    assert not (run.out / "lock").exists()


def test_the_command_that_began_a_run_is_kept(run):
    began = ("cmtool", "train", "digits/dsm", "--out", "my run")
    fit(plan(replace(run, command=began), None, {}, Listeners()), Listeners())
    after = replace(run, command=("cmtool", "more"), resume=True, overwrite=False)
    fit(plan(after, None, {}, Listeners()), Listeners())
    facts = describe(str(run.out), {})
    assert facts["origin: command"] == "cmtool train digits/dsm --out 'my run'"
    fit(plan(run, None, {}, Listeners()), Listeners())
    assert "origin: command" not in describe(str(run.out), {})


def test_images_that_came_meanwhile_are_noticed(run, tmp_path):
    folder, said = tmp_path / "grey", []
    for i in range(3):
        images.save_png(folder / f"{i}.png", np.full((8, 8, 1), i, np.uint8))
    run = replace(run, data=str(folder))
    fit(plan(run, None, {}, Listeners()), Listeners())
    images.save_png(folder / "0.inpaint.png", np.full((8, 8, 1), 9, np.uint8))
    plan(replace(run, resume=True, overwrite=False), None, {}, Listeners(said.append))
    assert "note: 'grey' had 3 images when the run began, now it has 4" in said


def test_the_holder_is_named(tmp_path):
    with (
        _rundir.locked(tmp_path),
        pytest.raises(CheckpointError, match=rf"process {os.getpid()} on .+ trains into"),
        _rundir.locked(tmp_path),
    ):
        pass


def test_a_lock_that_was_removed_meanwhile_is_not_taken(tmp_path, monkeypatch):
    flock = fcntl.flock
    for again in (False, True):  # The other removed it; a third has made a new one.

        def late(file, how, again=again):
            (tmp_path / "lock").unlink()
            if again:
                (tmp_path / "lock").write_text("process 7 on a-node")
            flock(file, how)

        monkeypatch.setattr("fcntl.flock", late)
        with pytest.raises(CheckpointError) as no, _rundir.locked(tmp_path):
            pass
        assert no.value.message == f"another process left '{tmp_path}' at this moment"
        assert no.value.hint == "the same command again"
        assert [p.read_text() for p in tmp_path.iterdir()] == again * ["process 7 on a-node"]
    monkeypatch.setattr("fcntl.flock", flock)
    with _rundir.locked(tmp_path):
        pass


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def none(file, how):
        raise OSError(38, "function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with _rundir.locked(tmp_path), _rundir.locked(tmp_path):
        pass
