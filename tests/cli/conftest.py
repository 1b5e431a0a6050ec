"""The folder with good and bad files, made once; tests may only read it."""

from pathlib import Path

import pytest
from cli_world import make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    return folder
