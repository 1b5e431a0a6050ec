"""A model saved by the real diffusers, by the commands: described, drawn from, distilled."""

from pathlib import Path

import pytest
from cli_world import SMALL_CD, cmtool
from diffusers_models import save

library = pytest.importorskip("diffusers")


def test_a_pipeline_is_described_drawn_from_and_distilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "pipeline", "tutorial", library.DDPMScheduler(clip_sample=False))
    done = cmtool("info", "pipeline")
    assert done.exit_code == 0, done.output
    for text in ("diffusion", "8x8, 1 channel", "0, 1, 2", "diffusers", "DDIMScheduler"):
        assert text in done.output
    done = cmtool("sample", "pipeline", "--n", "2", "--steps", "3", "--out", "some.png")
    assert done.exit_code == 0, done.output
    assert Path("some.png").is_file()
    Path("cd.toml").write_text(SMALL_CD)
    done = cmtool("distill", "cd.toml", "--teacher", "pipeline", "--max-steps", "2")
    assert done.exit_code == 0, done.output
    done = cmtool("sample", "runs/digits-cd", "--n", "2", "--steps", "2", "--out", "own.png")
    assert done.exit_code == 0, done.output
