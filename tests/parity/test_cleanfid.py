"""The same images and the same random network: features and distance as clean-fid has them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from inception_file import save_stand

from cmtool.data.catalog import open_data
from cmtool.errors import silent
from cmtool.images import save_png
from cmtool.metrics.features.inception import MODES, open_inception
from cmtool.metrics.features.resize import bicubic, bilinear, clean
from cmtool.metrics.frechet import Moments, frechet_distance

WIDTH = 16
"""Features that are looked at: fewer than images, so that clean-fid's root exists."""

pytestmark = pytest.mark.filterwarnings("ignore")  # clean-fid's own


def _images(n, seed, size=32):
    rng = np.random.default_rng(seed)
    smooth = rng.integers(0, 256, (n, 5, 5, 3)).astype(np.uint8)
    x = F.interpolate(torch.from_numpy(smooth).permute(0, 3, 1, 2).float(), size, mode="bilinear")
    noisy = x.numpy() + 6 * (1 + seed) * rng.normal(size=x.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cleanfid")
    for name, seed in (("real", 0), ("drawn", 1)):
        for i, image in enumerate(_images(32, seed)):
            save_png(folder / name / f"{i:04d}.png", image.transpose(1, 2, 0))
    return folder, save_stand(folder)


@pytest.mark.parametrize("mode", MODES)
def test_the_distance_of_two_folders_is_cleanfids(world, mode, monkeypatch):
    fid = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed")
    from cleanfid.inception_torchscript import InceptionV3W

    root = fid.linalg.sqrtm  # SciPy 1.18 has no `disp`
    monkeypatch.setattr(fid.linalg, "sqrtm", lambda a, disp=True: (root(a), 0.0))
    folder, path = world
    theirs = InceptionV3W(str(folder), download=False, resize_inside=mode == "legacy_tensorflow")
    if mode == "legacy_pytorch":  # clean-fid's wrapper divides by 255, its network does the rest

        def network(x):
            return theirs.layers(2 * (x / 255) - 1)
    else:
        network = theirs
    expected = fid.compute_fid(
        str(folder / "real"),
        str(folder / "drawn"),
        mode=mode,
        num_workers=0,
        batch_size=10,
        device=torch.device("cpu"),
        custom_feat_extractor=lambda x: network(x).flatten(1)[:, :WIDTH],
        verbose=False,
    )
    ours = open_inception(torch.device("cpu"), mode, silent, _unchecked=path)
    found = []
    for name in ("real", "drawn"):
        data = open_data(str(folder / name))
        features = ours(data.images(np.arange(len(data)))).features
        assert features.shape == (32, 2048)
        found.append(Moments.of(features[:, :WIDTH]))
    assert expected > 0
    assert frechet_distance(*found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [20, 64, 299, 400])
def test_resizing_is_cleanfids_bit_for_bit(size):
    resize = pytest.importorskip("cleanfid.resize", reason="clean-fid is not installed")
    images = _images(3, 0, size)
    for mode, ours in (("clean", clean), ("legacy_pytorch", bilinear)):
        one = resize.build_resizer(mode)
        expected = np.stack([one(image.transpose(1, 2, 0)).transpose(2, 0, 1) for image in images])
        assert np.array_equal(ours(torch.from_numpy(images), 299).numpy(), expected), mode


@pytest.mark.parametrize("size", [20, 64, 400])
def test_torchs_antialiased_bicubic_is_pillows_but_for_rounding(size):
    images = torch.from_numpy(_images(3, 0, size))
    assert torch.allclose(bicubic(images, 224), clean(images, 224), atol=2e-3)
