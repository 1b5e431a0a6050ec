"""What every test gets: a fixed seed, no internet, caches of its own, and the real files."""

import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every machine; a slow one is not a failure.
settings.register_profile("cmtool", deadline=None, derandomize=True)
settings.load_profile("cmtool")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device for the tests that take one")
    parser.addoption("--dtype", default="float32", help="dtype for the tests that take one")


@pytest.fixture
def device(request: pytest.FixtureRequest):
    import torch

    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def dtype(request: pytest.FixtureRequest):
    import torch

    return getattr(torch, request.config.getoption("--dtype"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    # A test that never imports torch should not pay for it.
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a test marked `network` reaches another machine."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"a test tried to reach {host}; mark it `network`")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("CMTOOL_DATA", raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds `data/` and `weights/`: real images and weights beside the project."""
    folder = os.environ.get("CMTOOL_SHARED")
    if not folder:
        pytest.skip("CMTOOL_SHARED is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers computed by the reference implementations."""
    return Path(os.environ.get("CMTOOL_GOLDEN") or Path(__file__).parent / "golden")
