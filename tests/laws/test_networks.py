"""Laws of every network in the registry, on small settings and on weights that are nowhere zero.

A new network that is too big or does not fit 8x8 images by default gets a line in `SMALL`.
"""

import json
import os
from pathlib import Path
from typing import Any

import golden_cases
import pytest
import torch
from export_models import SMALL
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cmtool import registry
from cmtool.networks.base import shapes_only

CLASSES = 5
KEYS = Path(__file__).parent / "network_keys.json"

every_network = pytest.mark.parametrize("name", registry.names("networks"))
# torch itself calls it when it loads the rules of forward-mode derivatives.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def build(name: str, num_classes: int = CLASSES) -> nn.Module:
    spec = registry.load("networks", name)(**SMALL.get(name, {}))
    return spec.build(8, 3, num_classes).eval()


def network(name: str, num_classes: int = CLASSES) -> nn.Module:
    """With weights by the rule of the goldens: fresh ones would return zeros."""
    net = build(name, num_classes)
    shapes = {key: list(p.shape) for key, p in net.named_parameters()}
    net.load_state_dict(golden_cases.parameters(shapes, seed=3), strict=False)
    return net


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 8, 8, generator=g, dtype=dtype)
    return x, torch.tensor([-1.5, 0.3, 1.1], dtype=dtype), torch.tensor([2, -1, 0])


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm())


@every_network
def test_shapes_are_known_without_memory(name: str) -> None:
    with shapes_only():
        bare = build(name).state_dict()
    real = build(name).state_dict()
    assert all(value.is_meta for value in bare.values())
    assert {key: (value.shape, value.dtype) for key, value in bare.items()} == {
        key: (value.shape, value.dtype) for key, value in real.items()
    }


@every_network
def test_output_depends_on_each_input(name: str) -> None:
    net, (x, c_noise, label) = network(name), inputs()
    out = net(x, c_noise, label)
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert error(net(1.1 * x, c_noise, label), out) > 1e-3
    assert error(net(x, c_noise + 0.1, label), out) > 1e-3
    assert error(net(x, c_noise, label + 1), out) > 1e-3


@every_network
def test_label_minus_one_is_no_class(name: str) -> None:
    net, (x, c_noise, label) = network(name), inputs()
    out, none = net(x, c_noise, label), net(x, c_noise)
    torch.testing.assert_close(out[1], none[1], rtol=0, atol=0)
    assert all(error(out[i], none[i]) > 1e-3 for i in (0, 2))


@every_network
def test_unconditional_network_ignores_the_label(name: str) -> None:
    net, (x, c_noise, label) = network(name, num_classes=0), inputs()
    torch.testing.assert_close(net(x, c_noise, label), net(x, c_noise), rtol=0, atol=0)


@every_network
def test_an_image_does_not_see_the_others(name: str) -> None:
    net, (x, c_noise, label) = network(name).double(), inputs(torch.float64)
    out = net(x, c_noise, label)
    others = torch.cat([x[:1], -x[1:]])
    torch.testing.assert_close(net(others, c_noise, label)[0], out[0], rtol=0, atol=0)
    assert error(net(x[:1], c_noise[:1], label[:1])[0], out[0]) < 1e-12


@every_network
def test_jvp_is_the_finite_difference(name: str) -> None:
    net, (x, c_noise, label) = network(name).double(), inputs(torch.float64)
    v, w, h = torch.randn_like(x), torch.randn_like(c_noise), 1e-6
    out, tangent = torch.func.jvp(lambda x, c: net(x, c, label), (x, c_noise), (v, w))
    ahead, behind = (net(x + s * v, c_noise + s * w, label) for s in (h, -h))
    assert error(out, net(x, c_noise, label)) < 1e-12
    assert error(tangent, (ahead - behind) / (2 * h)) < 1e-6


@every_network
def test_gradient_of_jvp_is_the_finite_difference(name: str) -> None:
    net, (x, c_noise, label) = network(name).double(), inputs(torch.float64)
    v, w, u = torch.randn_like(x), torch.randn_like(c_noise), torch.randn_like(x)

    def tangent() -> Tensor:
        return (u * torch.func.jvp(lambda x, c: net(x, c, label), (x, c_noise), (v, w))[1]).sum()

    parameters = list(net.parameters())
    direction = [torch.randn_like(p) for p in parameters]
    gradients = torch.autograd.grad(tangent(), parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None)
    values, h = [], 1e-6
    with torch.no_grad():
        for s in (h, -2 * h):
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=s)
            values.append(tangent())
    assert float(slope) == pytest.approx(float(values[0] - values[1]) / (2 * h), rel=1e-5)


@every_network
def test_jvp_drops_the_same_units_as_its_primal(name: str) -> None:
    """With dropout and channels-last memory; the masks are drawn once for value and tangent."""
    spec = registry.load("networks", name)(**SMALL.get(name, {}), dropout=0.5)
    net = spec.build(8, 3, CLASSES).double().train().to(memory_format=torch.channels_last)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    x, c_noise, label = inputs(torch.float64)
    x = x.contiguous(memory_format=torch.channels_last)
    v, w, h = torch.randn_like(x), torch.randn_like(c_noise), 1e-6

    def masked(x: Tensor, c_noise: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        return torch.func.jvp(lambda x, c: net(x, c, label), (x, c_noise), (v, w))

    tangent = masked(x, c_noise)[1]
    ahead, behind = (masked(x + s * v, c_noise + s * w)[0] for s in (h, -h))
    assert error(tangent, (ahead - behind) / (2 * h)) < 1e-6
    assert error(net(x, c_noise, label), masked(x, c_noise)[0]) > 1e-3


@every_network
def test_channels_last_changes_nothing(name: str) -> None:
    net, (x, c_noise, label) = network(name).double(), inputs(torch.float64)
    out = net(x, c_noise, label)
    net = net.to(memory_format=torch.channels_last)
    last = net(x.contiguous(memory_format=torch.channels_last), c_noise, label)
    assert error(last, out) < 1e-12


@every_network
def test_normalised_affines_bound_what_the_embedding_does(name: str) -> None:
    """It stops growing with the weights of the affine layers; their keys and shapes stay."""
    plain = network(name)
    spec = registry.load("networks", name)(**SMALL.get(name, {}), normalize_affine=True)
    net = spec.build(8, 3, CLASSES).eval()
    net.load_state_dict(plain.state_dict())
    x, c_noise, label = inputs()
    outs = [net(x, c_noise, label)]
    assert error(outs[0], plain(x, c_noise, label)) > 1e-2
    for _ in range(2):
        with torch.no_grad():
            for key, parameter in net.named_parameters():
                if "affine" in key or "shift" in key:
                    parameter.mul_(1e4)
        outs.append(net(x, c_noise, label))
    assert error(outs[2], outs[1]) < 0.01
    v = torch.randn_like(c_noise)
    assert torch.func.jvp(lambda c: net(x, c, label), (c_noise,), (v,))[1].isfinite().all()


class SeesPhases(TorchDispatchMode):
    """Records the types in which sines and cosines are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.cos.default, torch.ops.aten.sin.default):
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@every_network
def test_bf16_is_close_and_keeps_the_time_in_float32(name: str) -> None:
    net, (x, c_noise, label) = network(name), inputs()
    with torch.no_grad():
        out = net(x, c_noise, label)
        with SeesPhases() as seen, torch.autocast("cpu", torch.bfloat16):
            low = net(x, c_noise, label)
    assert seen.dtypes
    assert set(seen.dtypes) == {torch.float32}
    assert 1e-5 < error(low.float(), out) < 0.03


@every_network
def test_fresh_network_starts_near_zero(name: str) -> None:
    x, c_noise, label = inputs()
    out = build(name)(x, c_noise, label).detach()
    assert float(out.abs().max()) < 1e-3


@every_network
def test_weight_names_and_shapes_stay(name: str) -> None:
    """Checkpoints depend on them. After a change that is meant: CMTOOL_WRITE_SNAPSHOTS=1 pytest."""
    saved = json.loads(KEYS.read_text())
    found = {key: list(tensor.shape) for key, tensor in build(name).state_dict().items()}
    if os.environ.get("CMTOOL_WRITE_SNAPSHOTS"):
        rows = [f'"{n}": {json.dumps(keys)}' for n, keys in sorted({**saved, name: found}.items())]
        KEYS.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    else:
        assert found == saved.get(name)
