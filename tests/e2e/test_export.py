"""`cmtool export` and back: every command takes what was exported as it takes the run."""

import json
from pathlib import Path

import pytest
from cli_world import SMALL, SMALL_CD, cmtool, must
from safetensors.torch import load_file

ADM = """
[network]
name = "adm"
channels = 32
channel_mult = [1, 2]
blocks = 1
attention = [4]
head_channels = 32

[denoiser]
precond = "consistency"
noise_scale = 250.0

[sampling]
times = [80.0, 1.3824]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/dm, a diffusion model; runs/cm, a consistency model of it; runs/adm, one of ADM."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("small.toml").write_text(SMALL)
        Path("small-cd.toml").write_text(SMALL_CD)
        adm = ADM + SMALL[SMALL.index("[loss]") :].replace('"dsm"', '"ict"')
        Path("adm.toml").write_text(adm)
        must("train", "small.toml", "--out", "runs/dm")
        must("train", "adm.toml", "--out", "runs/adm")
        must("distill", "small-cd.toml", "--teacher", "runs/dm", "--out", "runs/cm")
    return folder


def drawn(model: str, name: str, *more: str) -> bytes:
    must("sample", model, "--n", "4", "--seed", "3", "--out", name, *more)
    return Path(name).read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_every_command_takes_it(kind: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    done = cmtool("export", kind, "--overwrite")  # The newest one-step model.
    assert done.exit_code == 0, done.stderr
    file = f"exports/cm.{kind}"
    assert done.stdout.splitlines()[-1] == file
    assert "weights ema-0.99" in done.stderr
    for steps in ("1", "2"):
        ours = drawn("runs/cm", f"{kind}-run{steps}.png", "--steps", steps)
        assert drawn(file, f"{kind}-{steps}.png", "--steps", steps) == ours
    picture = f"{kind}-2.png"
    words = ["--model", file, "--box", "2,2,6,6", "--out", f"{kind}-edited.png"]
    must("edit", "inpaint", picture, *words)
    must("info", file)
    must("export", kind, "runs/dm", "--overwrite")
    must("distill", "small-cd.toml", "--teacher", f"exports/dm.{kind}", "--out", f"runs2/{kind}")
    must("train", "small.toml", "--init", f"exports/dm.{kind}", "--out", f"runs3/{kind}")


def test_the_weights_that_are_asked_for(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    for weights in ("student", "ema-0.99", "ema"):
        out = f"{weights}.safetensors"
        must("export", "safetensors", "runs/cm", "--weights", weights, "--out", out)
        stored = "ema-0.99" if weights == "ema" else weights
        whole = load_file(f"runs/cm/step-00000002/{stored}.safetensors")
        exported = load_file(out)
        assert all(exported[key].equal(whole[key]) for key in exported)
        assert f"| weights | {stored}, stored as float32 |" in Path(f"{out}.md").read_text()


def test_diffusers_and_openai(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    monkeypatch.chdir(runs)
    must("export", "diffusers", "runs/adm")
    must("export", "openai", "runs/adm", "--out", "adm.pt")
    assert json.loads(Path("exports/adm-diffusers/check.json").read_text())["passed"]
    ours = drawn("runs/adm", "adm.png")
    assert drawn("exports/adm-diffusers", "diffusers.png") == ours
    facts = ["--as", "image_size=8", "--as", "head_channels=32", "--as", "precond=consistency"]
    assert drawn("adm.pt", "openai.png", *facts) == ours
    done = cmtool("export", "diffusers", "runs/adm")
    assert done.exit_code == 2
    assert "is there already" in done.stderr
    must("export", "diffusers", "runs/adm", "--overwrite")
    assert sorted(path.name for path in Path("exports").glob("adm*")) == ["adm-diffusers"]
