"""A JAX checkpoint in place of each model that a command takes."""

from pathlib import Path

import flax_file
import pytest
import torch
from cli_world import cmtool

from cmtool.foreign import jax
from cmtool.networks.ncsnpp import Ncsnpp

SPEC = Ncsnpp(channels=8, channel_mult=(1, 2), blocks=1, attention=(4,))
SAME = """
[network]
name = "ncsnpp"
channels = 8
channel_mult = [1, 2]
blocks = 1
attention = [4]

[loss]
name = "dsm"
"""


@pytest.mark.slow
def test_it_teaches_starts_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    flat = jax.to_theirs(SPEC.build(8, 1, 0).state_dict(), SPEC, 8, 1)
    tree = flax_file.training_state(flax_file.nested(flat))
    Path("edm_cifar10_ema").write_bytes(flax_file.packed(tree))
    Path("same.toml").write_text(SAME)
    known = ["--as", "image_size=8"]
    few = ["--data", "digits", "--max-steps", "2", "--batch-size", "8", "--device", "cpu"]
    few += ["--set", "data.conditional=false"]
    commands = [
        ["distill", "--teacher", "edm_cifar10_ema", *known, *few, "--out", "cd"],
        ["train", "same.toml", "--init", "edm_cifar10_ema", *known, *few, "--out", "dm"],
        ["sample", "edm_cifar10_ema", *known, "--n", "1", "--steps", "2", "--out", "a.png"],
        ["sample", "cd", "--n", "1", "--out", "b.png"],
    ]
    for command in commands:
        done = cmtool(*command)
        assert done.exit_code == 0, f"{command}\n{done.stderr}"
    assert Path("a.png").is_file()
    assert Path("b.png").is_file()
