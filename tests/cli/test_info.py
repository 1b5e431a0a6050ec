"""`cmtool info MODEL` says what a file is, whoever wrote it, and what to do with it."""

import re
import shlex
from pathlib import Path

import flax_file
import golden_cases
import pytest
import torch
from cli_world import cmtool

from cmtool.foreign import jax, openai
from cmtool.networks.adm import Adm
from cmtool.networks.ncsnpp import Ncsnpp

ADM = Adm(channels=32, channel_mult=(1, 2), blocks=1, attention=(4,), head_channels=32)
NCSNPP = Ncsnpp(channels=8, channel_mult=(1, 2), blocks=1, attention=(4,))
FACTS = ["--as", "image_size=8", "--as", "head_channels=32"]


def told(*words: str) -> dict[str, str]:
    done = cmtool("info", *words)
    assert done.exit_code == 0, done.stderr
    pairs = (re.split(r"  +", line, maxsplit=1) for line in done.stdout.splitlines())
    return {key: value for key, value in pairs}


def openai_file(path: Path) -> Path:
    network = ADM.build(8, 3, 5)
    torch.save(openai.to_theirs(network.state_dict(), ADM, 8, 3, 5), path)
    return path


def jax_file(path: Path) -> Path:
    flat = jax.to_theirs(NCSNPP.build(8, 3, 0).state_dict(), NCSNPP, 8, 3)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(flax_file.packed(flax_file.training_state(flax_file.nested(flat))))
    return path


def parameters(module: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,}"


def test_a_directory_and_a_file_of_this_tool(world: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(world)
    facts = told("cm")
    assert facts["layout"] == "checkpoint directory of cmtool"
    assert facts["use"].startswith("sampling in 1 or more steps")
    assert facts["to draw"] == "cmtool sample cm --n 16 --out grid.png"
    facts = told("whole.safetensors")
    assert facts["layout"] == "single file of cmtool"
    assert facts["use"] == "teacher, start of a training (--init), sampling in many steps"
    assert facts["to distil it"] == "cmtool distill --teacher whole.safetensors --data NAME"
    assert facts["network"].startswith("Tiny(")
    assert not [key for key in facts if key.startswith("assumed")]


def test_openais(tmp_path: Path):
    facts = told(str(openai_file(tmp_path / "model.pt")), *FACTS)
    assert facts["layout"] == "state dict of OpenAI's consistency models, PyTorch"
    assert facts["kind"] == "diffusion"
    assert facts["network"].startswith("Adm(channels=32, channel_mult=(1, 2), blocks=1, ")
    assert facts["parameters"] == parameters(ADM.build(8, 3, 5))
    assert facts["images"] == "8x8, 3 channel(s), in [-1, 1]"
    assert facts["classes"] == "0, 1, 2, 3, 4"
    assert facts["noise range"] == "0.002 .. 80"
    assert "noise_scale=250" in facts["preconditioning"]
    assumed = [facts[f"assumed {i}"] for i in (1, 2, 3)]
    assert assumed == [
        "model.pt does not tell precond: assuming edm (--as precond=... to change)",
        "model.pt does not tell sigma_min: assuming 0.002 (--as sigma_min=... to change)",
        "model.pt does not tell sigma_max: assuming 80.0 (--as sigma_max=... to change)",
    ]
    assert facts["to distil it"].endswith(
        "model.pt --as image_size=8 --as head_channels=32 --data NAME"
    )


def test_a_preset_tells_all(tmp_path: Path):
    path = str(openai_file(tmp_path / "ema_0.9999_600000.pt"))
    facts = told(path, "--as", "cd_imagenet64_l2", *FACTS)
    assert facts["kind"] == "consistency"
    assert facts["2 steps at"] == "80, 1.3824"
    assert not [key for key in facts if key.startswith("assumed")]
    assert "--as preset=cd_imagenet64_l2" in facts["to draw"]


def test_the_jax_codes(tmp_path: Path):
    path = jax_file(tmp_path / "cd-lpips" / "checkpoint_80")
    facts = told(str(path), "--as", "image_size=8")
    assert facts["layout"] == "flax msgpack of the JAX code of the consistency models"
    assert facts["kind"] == "consistency"
    assert facts["parameters"] == parameters(NCSNPP.build(8, 3, 0))
    assert facts["classes"] == "none"
    assert facts["2 steps at"] == "80, 0.5853"
    assert "boundary=0.002" in facts["preconditioning"]


@pytest.mark.parametrize("file", sorted(golden_cases.folder().glob("*.pkl")), ids=lambda p: p.stem)
def test_nvidias(file: Path):
    facts = told(str(file))
    assert re.fullmatch(
        r"pickle of NVIDIA's code \(\w+\), of which nothing was run", facts["layout"]
    )
    assert facts["kind"] == "diffusion"
    assert facts["use"].startswith("teacher, ")


def test_the_next_command_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for path in (openai_file(Path("a file.pt")), jax_file(Path("ct-lpips") / "checkpoint_74")):
        known = ["--as", "image_size=8", *(FACTS[2:] if path.suffix else ())]
        known += ["--as", "precond=consistency"]  # One evaluation to draw an image.
        words = shlex.split(told(str(path), *known)["to draw"])
        words = [{"16": "1", "grid.png": f"{path.stem}.png"}.get(word, word) for word in words]
        done = cmtool(*words[1:])
        assert done.exit_code == 0, done.stderr
        assert Path(f"{path.stem}.png").is_file()


def test_the_page_names_every_preset_and_fact():
    from cmtool.workflows.load import FACTS, PRESETS

    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([\w-]+)`", page))
    assert set(PRESETS) <= words
    assert set(FACTS) - {"preset"} <= words


def test_a_name_in_a_file_does_not_steer_the_terminal(tmp_path: Path):
    path = tmp_path / "checkpoint_1"
    path.write_bytes(flax_file.packed({"a\x1b[31mred\n" * 3: 1, "b" * 100_000: 2}))
    done = cmtool("info", str(path))
    assert done.exit_code == 2
    assert "a\\x1b[31mred\\n" in done.stderr
    assert "\x1b" not in done.stderr
    assert len(done.stderr) < 1000
    model = tmp_path / "\x1b[2J.pt"
    done = cmtool("info", str(openai_file(model)), *FACTS)
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout + done.stderr
