"""EDM2's network and files: published sizes, names, what is refused, what is left out."""

from typing import Any

import golden_cases
import pytest
import torch
from torch import Tensor

from cmtool.errors import CheckpointError
from cmtool.foreign import edm2, nvidia
from cmtool.foreign._keymap import skeleton
from cmtool.networks.adm import Adm
from cmtool.networks.base import Network
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.networks.edm2 import Edm2
from cmtool.networks.ncsnpp import Ncsnpp

ARGUMENTS = {"img_resolution": 16, "img_channels": 3, "label_dim": 10, "model_channels": 16}
CASES = [n for n, c in golden_cases.cases().items() if "edm2" in c.get("source", "")]


def parameters(spec: Network, image_size: int, channels: int, classes: int) -> int:
    with torch.device("meta"):
        module = spec.build(image_size, channels, classes)
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("channels", "millions"),
    [(128, 125), (192, 280), (256, 498), (320, 777), (384, 1119), (448, 1523)],
)
def test_published_sizes(channels: int, millions: int) -> None:
    """XS to XXL for 64x64 latents of 4 channels: Karras et al. 2023, arXiv 2312.02696, Table 2."""
    facts = (64, 4, 1000)
    spec = Edm2(channels=channels)
    assert round(parameters(spec, *facts) / 1e6) == millions
    table = edm2.key_map(spec, *facts)
    assert set(table) == set(skeleton(spec, *facts))
    assert len(set(table.values())) == len(table)


@pytest.mark.parametrize(
    ("spec", "facts", "count"),
    [
        (Ddpmpp(augment_dim=9), (32, 3, 0), 55_733_891),
        (Ncsnpp(augment_dim=9), (32, 3, 10), None),
        (Adm(flavor="edm"), (64, 3, 1000), 295_899_267),
        (Adm(flavor="edm", augment_dim=9), (64, 3, 1000), 295_899_267 + 9 * 192),
    ],
)
def test_edms_published_layouts(spec: Any, facts: tuple[int, int, int], count: int | None) -> None:
    ours = skeleton(spec, *facts)
    table = nvidia.key_map(spec, *facts)
    assert set(table) == set(ours)
    if count is not None:
        assert parameters(spec, *facts) == count
    # The image pyramid's filter is one buffer of theirs for each of ours.
    assert len(set(table.values())) == len(table)
    theirs = nvidia.to_theirs(ours, spec, *facts)
    back = nvidia.to_ours({**filters(ours, table), **theirs}, spec, *facts)
    assert {k: t.shape for k, t in back.items()} == {k: t.shape for k, t in ours.items()}


def filters(ours: dict[str, Tensor], table: dict[str, str]) -> dict[str, Tensor]:
    """What `to_theirs` leaves out because it is constant."""
    return {table[k]: t[None, None] for k, t in ours.items() if k.endswith(".filter")}


@pytest.mark.parametrize("name", CASES)
def test_names_go_there_and_back(name: str) -> None:
    state = golden_cases.weights(name)
    spec, *facts = edm2.infer(golden_cases.cases()[name]["config"])
    back = edm2.to_theirs(edm2.to_ours(state, spec, *facts), spec, *facts)
    assert set(state) - set(back) == {k for k in state if k.startswith("logvar_")}
    assert all(torch.equal(tensor, state[key]) for key, tensor in back.items())


def test_half_precision_weights_come_out_in_float32() -> None:
    spec, *facts = edm2.infer(ARGUMENTS)
    state = {key: t.half() for key, t in spec.build(*facts).state_dict().items()}
    found = edm2.to_ours(edm2.to_theirs(state, spec, *facts), spec, *facts)
    assert {t.dtype for t in found.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"res_balance": 0.5}, "an EDM2 network with res_balance = '0.5', not 0.3"),
        ({"resample_filter": [1, 3, 3, 1]}, "resample_filter = '[1, 3, 3, 1]', not (1, 1)"),
        ({"model_channels": "many"}, "senseless arguments: invalid literal"),
        ({"num_blocks": 0}, "senseless arguments: blocks: needs at least 1, got 0"),
        ({"heads": 3}, "unknown arguments: heads"),
    ],
)
def test_other_networks_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        edm2.infer({**ARGUMENTS, **changed})
    assert message in str(caught.value)


def test_missing_arguments_are_named() -> None:
    with pytest.raises(CheckpointError, match="without img_resolution"):
        edm2.infer({})


@pytest.mark.parametrize("mode", [True, False])
def test_forward_leaves_the_weights_alone_and_their_size_does_not_matter(mode: bool) -> None:
    """Each weight counts over its norm alone, in training too."""
    torch.manual_seed(0)
    net = Edm2(channels=16, channel_mult=(1, 2), blocks=1, attention=(4,), head_channels=8)
    module = net.build(8, 3, 5).double().train(mode)
    for name, parameter in module.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.ones_(parameter)
    x, c_noise = torch.randn(2, 3, 8, 8).double(), torch.tensor([-1.0, 1.0]).double()
    before = {key: t.clone() for key, t in module.state_dict().items()}
    out = module(x, c_noise, torch.tensor([1, -1]))
    assert all(torch.equal(t, before[key]) for key, t in module.state_dict().items())
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim:
                parameter.mul_(7)
    # 1e-4 beside a norm of 1 is all that tells.
    other = module(x, c_noise, torch.tensor([1, -1]))
    assert float((other - out).detach().abs().max() / out.detach().abs().max()) < 2e-3


def test_layers_keep_the_magnitude() -> None:
    """A fresh network with unit gains returns numbers of about unit size."""
    torch.manual_seed(0)
    net = Edm2(channels=64, channel_mult=(1, 2), blocks=1, attention=(4,), head_channels=32)
    module = net.build(8, 3, 0)
    torch.nn.init.ones_(module.get_parameter("out_gain"))
    with torch.no_grad():
        out = module(torch.randn(64, 3, 8, 8), torch.randn(64))
    assert 0.7 < float(out.square().mean().sqrt()) < 1.4
