"""Models with classes, made once for a file of tests."""

from pathlib import Path

import pytest
from cli_world import SMALL, SMALL_CD, must


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the conditional models of digits dm (diffusion) and cm (consistency)."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("dm.toml").write_text(SMALL.replace("[data]\n", "[data]\nconditional = true\n"))
        Path("cd.toml").write_text(SMALL_CD)
        must("train", "dm.toml", "--out", "dm", "--max-steps", "60", "--lr", "0.01")
        must("distill", "cd.toml", "--teacher", "dm", "--out", "cm")
    return folder
