"""One folder of small models, made once, and a copy of it for each page."""

from pathlib import Path

import doc_world
import pytest


@pytest.fixture(scope="session")
def doc_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doc_world")
    doc_world.make(folder)
    return folder


@pytest.fixture
def scratch(doc_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a page, as the current one."""
    from inception_file import save_stand

    from cmtool.metrics.features import inception

    doc_world.copy(doc_models, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMTOOL_DATA", str(doc_models / "data"))
    monkeypatch.setenv("CMTOOL_CACHE", str(doc_models / "cache"))
    monkeypatch.setenv("CMTOOL_OFFLINE", "1")
    doc_world.small_grids_and_sets(monkeypatch)
    stand = doc_models / "inception-2015-12-05.pt"
    content = stand.read_bytes() if stand.is_file() else save_stand(doc_models).read_bytes()
    monkeypatch.setattr(inception, "find", lambda say: content)
    return tmp_path
