"""Guidance: as an input of networks, drawn in training, classifier-free in sampling."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cmtool.networks.adm import Adm
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.networks.ncsnpp import Ncsnpp
from cmtool.networks.tiny import Tiny

SMALL = {"channels": 32, "channel_mult": (1,), "blocks": 1}
NETWORKS = {
    "tiny": Tiny(width=16, patch=1),
    "ddpmpp": Ddpmpp(**SMALL, augment_dim=9),
    "ncsnpp": Ncsnpp(**SMALL, augment_dim=9),
    "adm": Adm(**SMALL, attention=(), head_channels=32),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network that takes guidance, with weights that are nowhere zero but in the guidance's own
    layer."""
    torch.manual_seed(0)
    built = with_input(NETWORKS[request.param]).build(8, 1, 3)
    for name, parameter in built.named_parameters():
        if not name.endswith("guidance.weight"):
            nn.init.normal_(parameter, std=0.1)
    return built


def with_input(spec):
    return replace(spec, guidance_input=True)


def inputs(n=4):
    return torch.randn(n, 1, 8, 8), torch.randn(n), torch.tensor([0, 1, 2, -1])


@pytest.mark.parametrize("name", NETWORKS)
def test_without_the_option_no_weight_is_added(name):
    plain, told = (
        s.build(8, 1, 3).state_dict() for s in (NETWORKS[name], with_input(NETWORKS[name]))
    )
    (added,) = told.keys() - plain.keys()
    assert added.endswith("guidance.weight")
    assert not told[added].any()
    assert plain.keys() <= told.keys()


def test_guidance_changes_nothing_at_first(network):
    x, c_noise, label = inputs()
    w = torch.tensor([1.0, 2.0, 5.0, 0.0])
    torch.testing.assert_close(network(x, c_noise, label, guidance=w), network(x, c_noise, label))


def test_weight_one_is_no_guidance_whatever_was_learned(network):
    x, c_noise, label = inputs()
    weight = next(p for n, p in network.named_parameters() if n.endswith("guidance.weight"))
    nn.init.normal_(weight)
    plain = network(x, c_noise, label)
    assert torch.equal(network(x, c_noise, label, guidance=torch.ones(4)), plain)
    guided = network(x, c_noise, label, guidance=torch.tensor([1.0, 1.0, 3.0, 1.2]))
    assert torch.equal(guided[:2], plain[:2])
    assert ((guided - plain)[2:].abs().amax((1, 2, 3)) > 1e-3).all()


def test_every_weight_is_used_when_nothing_is_told(network):
    """Else data-parallel training stops at a parameter without a gradient."""
    x, c_noise, label = inputs()
    network(x, c_noise, label).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
