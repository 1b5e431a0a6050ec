"""Distances, on numbers worked by hand."""

import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from cmtool.losses import _distance
from cmtool.losses._distance import distance

A = torch.tensor([[[[0.0, 3.0], [0.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
B = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])


def test_by_hand():
    assert distance("l1", A, B).tolist() == [7 / 4, 0]
    assert distance("l2", A, B).tolist() == [25 / 4, 0]
    huber = distance("pseudo-huber", A, B, huber_c=0.5)
    assert huber.tolist() == pytest.approx([math.sqrt(25.25) - 0.5, 0])


def test_pseudo_huber_uses_the_norm_of_the_whole_image_and_the_papers_c():
    a, b = torch.randn(2, 3, 32, 32).double(), torch.randn(2, 3, 32, 32).double()
    c = 0.00054 * math.sqrt(3072)
    assert c == pytest.approx(0.02993, abs=5e-6)
    expected = ((a - b).flatten(1).norm(dim=1) ** 2 + c**2).sqrt() - c
    torch.testing.assert_close(distance("pseudo-huber", a, b), expected)


def test_pseudo_huber_of_pixels_is_another_distance():
    """On normal numbers at 32x32x3 with c = 0.03 one is nearly l1, the other nearly a norm."""
    torch.manual_seed(0)
    a, b = torch.randn(64, 3, 32, 32), torch.randn(64, 3, 32, 32)
    c = 0.00054 * math.sqrt(3072)
    pixels = distance("pseudo-huber-elementwise", a, b)
    expected = (((a - b).double() ** 2 + c**2).sqrt() - c).flatten(1).mean(1).float()
    torch.testing.assert_close(pixels, expected)
    assert pixels.mean().item() == pytest.approx(1.10, abs=0.01)
    assert distance("pseudo-huber", a, b).mean().item() == pytest.approx(78.4, abs=0.3)


@pytest.mark.parametrize("name", ["pseudo-huber", "pseudo-huber-elementwise"])
def test_pseudo_huber_with_c_0_is_the_norm_and_has_a_gradient_at_0(name):
    assert distance(name, A, B, 0.0).tolist() == [5 if name == "pseudo-huber" else 7 / 4, 0]
    a = torch.zeros(2, 1, 2, 2, requires_grad=True)
    distance(name, a, torch.zeros_like(a), 0.0).sum().backward()
    assert torch.equal(a.grad, torch.zeros_like(a))


def test_pseudo_huber_does_not_cancel_for_small_differences():
    a = torch.zeros(1, 3, 32, 32)
    b = torch.full_like(a, 1e-6)
    square, c = 3072e-12, 0.02993
    assert distance("pseudo-huber", a, b).item() == pytest.approx(square / (2 * c), rel=1e-3)


def test_l2_32_is_l2_where_nothing_is_resized():
    a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(distance("l2-32", a, b), distance("l2", a, b))


@pytest.fixture
def random_trunk(monkeypatch):
    """LPIPS on a trunk with random weights: its arithmetic can be checked without a download."""
    import lpips

    torch.manual_seed(0)
    _distance.lpips_network.cache_clear()
    real = lpips.LPIPS
    monkeypatch.setattr(
        lpips, "LPIPS", lambda net, verbose: real(net=net, verbose=False, pnet_rand=True)
    )
    yield
    _distance.lpips_network.cache_clear()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["lpips-vgg", "lpips-vgg-avg"])
def test_lpips_equals_the_hand_formula(random_trunk, name):
    """Sum over layers of the spatial mean of w_c (a - b)^2 on unit-norm features."""
    a, b = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 16, 16) * 2 - 1
    network = _distance.lpips_network(name)
    pools = [m for m in network.modules() if isinstance(m, nn.AvgPool2d | nn.MaxPool2d)]
    assert {type(m) for m in pools} == {nn.AvgPool2d if name.endswith("avg") else nn.MaxPool2d}

    def features(x):
        x = F.interpolate(x, size=224, mode="bilinear")
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        # The lpips package's own rounding of these constants, on its range [-1, 1].
        mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (x - mean[None, :, None, None]) / std[None, :, None, None]
        found = []
        for slice_ in ("slice1", "slice2", "slice3", "slice4", "slice5"):
            x = getattr(network.net, slice_)(x)
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    total = sum(
        (lin.model[-1].weight[0] * (u - v).square()).sum(1).mean((1, 2))
        for lin, u, v in zip(network.lins, features(a), features(b), strict=True)
    )
    torch.testing.assert_close(distance(name, a, b), total, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips_takes_grey_images_and_gives_gradients_to_them_alone(random_trunk):
    a = torch.rand(2, 1, 16, 16, requires_grad=True)
    out = distance("lpips-alex", a, torch.rand(2, 1, 16, 16))
    out.sum().backward()
    assert out.shape == (2,)
    assert a.grad.abs().sum() > 0
    assert all(p.grad is None for p in _distance.lpips_network("lpips-alex").parameters())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lpips_with_real_weights(random_trunk):
    """Real trunk weights: zero on equal images, and a blurred image is nearer than another one."""
    folder = os.environ.get("CMTOOL_SHARED")
    if not folder:
        pytest.skip("CMTOOL_SHARED is not set: the real LPIPS weights lie there")
    stored = load_file(Path(folder) / "weights" / "lpips_alex_fp32.safetensors")
    network = _distance.lpips_network("lpips-alex")
    heads = {k: v for k, v in network.state_dict().items() if k.startswith("lin")}
    for i in range(5):
        torch.testing.assert_close(
            heads[f"lin{i}.model.1.weight"], stored[f"lin{i}.model.1.weight"]
        )
    parameters = dict(network.net.named_parameters())
    for name, value in parameters.items():
        value.data.copy_(stored["features." + name.split(".", 1)[1]])
    torch.manual_seed(0)
    smooth = F.interpolate(torch.rand(2, 3, 8, 8), size=64, mode="bicubic").clamp(0, 1) * 2 - 1
    blurred = F.avg_pool2d(smooth, 3, 1, 1)
    assert distance("lpips-alex", smooth, smooth).abs().max() == 0
    near, far = (
        distance("lpips-alex", smooth, blurred),
        distance("lpips-alex", smooth, smooth.flip(0)),
    )
    assert (near < far).all()
