"""PSNR, SSIM and LPIPS against their definitions and the libraries'."""

import math
import os
import shutil
from pathlib import Path

import pytest
import torch

from cmtool.metrics.lpips import FILE
from cmtool.metrics.similarity import lpips, psnr, ssim


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(*shape, generator=generator) * 2 - 1


def test_psnr_is_that_of_a_range_of_2():
    a = torch.zeros(3, 8, 8)
    assert psnr(a, a) == math.inf
    assert psnr(a, a + 0.2) == pytest.approx(20)


def test_ssim_is_scikit_images():
    metrics = pytest.importorskip("skimage.metrics", reason="SSIM is scikit-image's")
    a, b = noise(3, 16, 12), noise(3, 16, 12).flip(1)
    expected = metrics.structural_similarity(
        a.permute(1, 2, 0).double().numpy(),
        b.permute(1, 2, 0).double().numpy(),
        data_range=2,
        channel_axis=2,
    )
    assert ssim(a, b) == pytest.approx(expected, rel=1e-9)
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a[:, :5], b[:, :5]) is None


def test_lpips_is_left_out_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert lpips(noise(3, 32, 32), noise(3, 32, 32)) is None


def test_lpips_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shared = os.environ.get("CMTOOL_SHARED")
    if shared is None:
        pytest.skip("CMTOOL_SHARED is not set: LPIPS' weights are not at hand")
    (tmp_path / "weights").mkdir()
    shutil.copy(Path(shared, "weights", FILE), tmp_path / "weights")
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path))
    smooth = torch.linspace(-1, 1, 32).expand(3, 32, 32)
    assert lpips(smooth, smooth) == 0
    near, far = lpips(smooth, smooth + 0.02 * noise(3, 32, 32)), lpips(smooth, noise(3, 32, 32))
    assert near is not None
    assert far is not None
    assert 0 < near < 0.1 < far
