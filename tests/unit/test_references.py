"""Statistics files of every layout, npz files of images, and what is refused."""

import pickle
import sys
import zipfile

import numpy as np
import pytest

from cmtool.data.digits import load
from cmtool.errors import DataError
from cmtool.metrics import _npz
from cmtool.metrics.features.base import Extractor
from cmtool.metrics.features.catalog import open_features
from cmtool.metrics.frechet import Moments, Running, frechet_distance
from cmtool.metrics.references import (
    content_hash,
    is_statistics,
    open_images,
    open_statistics,
    write_statistics,
)

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(40, 6)) @ RNG.normal(size=(6, 6)) + 1
MOMENTS = Moments.of(FEATURES)
OTHER = Moments.of(FEATURES[:30] * 1.5)
IMAGES = RNG.integers(0, 256, (7, 8, 8, 3)).astype(np.uint8)


def _distance(statistics):
    return frechet_distance(OTHER, statistics.gaussian)


EXPECTED = frechet_distance(OTHER, MOMENTS)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_mu_and_sigma_are_read_as_they_are(tmp_path, save, dtype):
    path = tmp_path / "cifar10-32x32.npz"
    save(path, mu=MOMENTS.mean.astype(dtype), sigma=MOMENTS.covariance.astype(dtype))
    assert is_statistics(path)
    found = open_statistics(path)
    assert found.gaussian.n == 0
    assert found.images is None
    assert _distance(found) == pytest.approx(EXPECTED, rel=1e-12 if dtype == np.float64 else 1e-5)
    assert found.facts["layout"] == "mu and sigma"


def test_adms_file_has_images_too(tmp_path):
    path = tmp_path / "VIRTUAL_imagenet64_labeled.npz"
    spatial = {"mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    np.savez(path, mu=MOMENTS.mean, sigma=MOMENTS.covariance, arr_0=IMAGES, **spatial)
    found = open_statistics(path)
    assert found.facts["layout"] == "adm"
    assert _distance(found) == EXPECTED
    assert np.array_equal(
        found.images.images(np.array([6, 0])), IMAGES[[6, 0]].transpose(0, 3, 1, 2)
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_edm2s_pickle_is_read_without_running_it(tmp_path, protocol):
    path = tmp_path / "img512.pkl"
    fid = {"mu": MOMENTS.mean, "sigma": MOMENTS.covariance}
    other = {"mu": np.zeros(2), "sigma": np.eye(2)}
    path.write_bytes(pickle.dumps({"fid": fid, "fd_dinov2": other}, protocol=protocol))
    if protocol in (2, 5):  # NumPy needs a call there, and bytes that can be changed
        with pytest.raises(DataError, match="no statistics file of EDM2"):
            open_statistics(path)
        return
    found = open_statistics(path)
    assert _distance(found) == EXPECTED
    assert np.array_equal(found.gaussian.covariance, MOMENTS.covariance)


class Evil:
    def __reduce__(self):
        return sys.exit, (3,)


@pytest.mark.parametrize(
    "content",
    [
        {"fid": {"mu": Evil(), "sigma": Evil()}},
        {"fid": {"mu": np.array(["text"]), "sigma": np.eye(1)}},
        {"fid": {"mu": [0.0], "sigma": [[1.0]]}},
        {"fd_dinov2": {"mu": np.zeros(2), "sigma": np.eye(2)}},
        [1, 2],
    ],
)
def test_other_pickles_are_refused(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(DataError, match="no statistics file of EDM2"):
        open_statistics(path)


def _broken(**changes):
    return {"mu": MOMENTS.mean, "sigma": MOMENTS.covariance} | changes


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (_broken(mu=MOMENTS.mean[:5]), r"\(5,\) and \(6, 6\)"),
        (_broken(sigma=MOMENTS.covariance[:5]), r"\(6,\) and \(5, 6\)"),
        (_broken(mu=MOMENTS.covariance), "no mean"),
        (_broken(mu=np.full(6, np.nan)), "not finite"),
        (_broken(sigma=np.triu(MOMENTS.covariance)), "not symmetric"),
        (_broken(sigma=-MOMENTS.covariance), "variance is negative"),
        (_broken(mu=np.arange(6)), "no floats"),
        ({"features": FEATURES}, "holds features, no mu and sigma"),
        (_broken(cmtool=np.array("{}")), "no whole npz"),
    ],
)
def test_what_is_no_statistics_is_told(tmp_path, arrays, message):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message):
        open_statistics(path)


@pytest.mark.parametrize("cut", [0, 10, 300, -40])
def test_a_torn_file_is_told(tmp_path, cut):
    path = tmp_path / "x.npz"
    np.savez(path, **_broken())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="no whole npz"):
        open_statistics(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **_broken())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="no whole npz"):
        open_statistics(path)


def test_a_file_that_claims_more_than_the_memory_is_refused_at_once(tmp_path):
    path = tmp_path / "x.npz"
    head = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }"
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in (("mu", "(30000,)"), ("sigma", "(30000, 30000)")):
            text = (head % shape).ljust(117) + "\n"
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00v\x00" + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_npz, "memory_bytes", lambda: 2**30)
        with pytest.raises(DataError, match=r"no (array that fits|whole npz)"):
            open_statistics(path)


# Ours.


@pytest.mark.parametrize("n", [4, 40])
def test_our_file_gives_the_same_distance_and_its_making(tmp_path, n):
    running = Running()
    running.add(FEATURES[:n])
    path = tmp_path / "new" / "own.npz"
    facts = {"features": open_features("pixel").facts, "reference": "digits"}
    write_statistics(path, running.moments(), facts)
    found = open_statistics(path)
    assert found.gaussian.n == n
    assert found.facts["reference"] == "digits"
    expected = frechet_distance(OTHER, Moments.of(FEATURES[:n]))
    assert _distance(found) == pytest.approx(expected, rel=1e-7)
    with np.load(path) as plain:  # other tools read these
        assert np.allclose(plain["sigma"], np.cov(FEATURES[:n], rowvar=False))
        assert np.allclose(plain["mu"], FEATURES[:n].mean(0))
    assert [entry.name for entry in path.parent.iterdir()] == ["own.npz"]


def test_a_full_disk_is_one_error_and_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "own.npz"
    write_statistics(path, MOMENTS, {})
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match="no space left on device") as caught:
        write_statistics(path, OTHER, {})
    assert "free space" in caught.value.hint
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["own.npz"]


def _inception(mode="clean"):
    return Extractor("inception", 2048, 0, lambda x, p: (x, None), {"mode": mode}, official=True)


def _of_inception(tmp_path, name, dim=2048):
    path = tmp_path / name
    np.savez(path, mu=np.zeros(dim), sigma=np.eye(dim))
    return open_statistics(path)


def test_statistics_are_held_only_against_their_own_features(tmp_path):
    pixel = open_features("pixel")
    write_statistics(tmp_path / "own.npz", MOMENTS, {"features": pixel.facts})
    own = open_statistics(tmp_path / "own.npz")
    own.check(pixel)
    with pytest.raises(DataError, match=r"other features: .*features pixel, not None"):
        own.check(_inception())
    with pytest.raises(DataError, match="6 features and do not tell"):
        _of_inception(tmp_path, "x.npz", 6).check(_inception())
    published = _of_inception(tmp_path, "ffhq_clean_trainval70k_1024.npz")
    published.check(_inception())
    with pytest.raises(DataError, match="mode clean, not legacy_tensorflow"):
        published.check(_inception("legacy_tensorflow"))
    with pytest.raises(DataError, match="not 'pixel'"):
        published.check(pixel)


def test_statistics_of_openai_and_edm2_are_of_images_resized_in_the_network(tmp_path):
    wide = {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    np.savez(tmp_path / "VIRTUAL_imagenet64_labeled.npz", **wide, arr_0=IMAGES)
    (tmp_path / "img512.pkl").write_bytes(pickle.dumps({"fid": wide}, protocol=4))
    for name in ("VIRTUAL_imagenet64_labeled.npz", "img512.pkl"):
        found = open_statistics(tmp_path / name)
        found.check(_inception("legacy_tensorflow"))
        with pytest.raises(DataError, match="mode legacy_tensorflow, not clean") as caught:
            found.check(_inception())
        assert caught.value.hint == "--protocol cm-cifar10|adm|edm"


# Images.


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_of_images_is_a_data_set(tmp_path, save):
    path = tmp_path / "samples.npz"
    save(path, IMAGES, np.array([0, 1, 2, 0, 1, 2, 2]))
    assert not is_statistics(path)
    data = open_images(path)
    assert (len(data), data.image_shape, data.num_classes) == (7, (3, 8, 8), 3)
    assert np.array_equal(data.images(np.arange(7)), IMAGES.transpose(0, 3, 1, 2))
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 2]


def test_images_that_are_not_compressed_stay_on_the_disk(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, labels=np.arange(7), images=IMAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.lib.format, "read_array", lambda *a, **k: pytest.fail("was read"))
        with pytest.raises(pytest.fail.Exception):
            open_images(path)  # the labels are read
    stored = _npz.Npz(path).mapped("images")
    assert isinstance(stored, np.memmap)
    assert np.array_equal(stored, IMAGES)


@pytest.mark.parametrize(
    "images",
    [IMAGES.astype(np.float32), IMAGES[:, :, :7], IMAGES[..., :2], IMAGES[:0], IMAGES[0]],
)
def test_what_are_no_images_is_told(tmp_path, images):
    path = tmp_path / "samples.npz"
    np.savez(path, images)
    with pytest.raises(DataError, match=r"no square images|holds no images"):
        open_images(path)


def test_content_tells_sets_apart_and_files_alike(tmp_path):
    np.savez(tmp_path / "a.npz", IMAGES)
    np.savez_compressed(tmp_path / "b.npz", images=IMAGES)
    np.savez(tmp_path / "c.npz", IMAGES[::-1])
    a, b, c = (content_hash(open_images(tmp_path / f"{name}.npz")) for name in "abc")
    assert a == b
    assert a != c
    np.savez(tmp_path / "digits.npz", load("test").images)
    assert content_hash(open_images(tmp_path / "digits.npz")) not in (a, c)
