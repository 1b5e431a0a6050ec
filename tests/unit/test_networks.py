"""What is special to one network or layer; the common laws are in `laws/test_networks.py`."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmtool.networks._layers import GroupNorm, Resample, attention
from cmtool.networks.adm import Adm
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.networks.ncsnpp import Ncsnpp

SONG = {"channels": 16, "channel_mult": (1, 2), "blocks": 1, "attention": (4,)}


def test_attention_is_the_formula() -> None:
    q, k, v = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64).unbind(0)
    weights = (q @ k.mT / math.sqrt(8)).softmax(-1)
    torch.testing.assert_close(attention(q, k, v), weights @ v)


def test_group_norm_of_low_precision_has_float32_statistics() -> None:
    norm = GroupNorm(2, 8, eps=1e-5)
    x = (300 + torch.randn(2, 8, 16, 16)).bfloat16()
    out = norm(x)
    assert out.dtype == torch.bfloat16
    expected = F.group_norm(x.double(), 2).bfloat16()
    torch.testing.assert_close(out, expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_resampling_keeps_a_constant_and_the_mean(taps: tuple[int, ...]) -> None:
    inner = (..., slice(2, -2), slice(2, -2))
    x = torch.full((1, 2, 16, 16), 3.0)
    for direction in ("down", "up"):
        torch.testing.assert_close(
            Resample(direction, taps)(x)[inner].unique(), torch.tensor([3.0])
        )
    spot = torch.zeros(1, 1, 8, 8)
    spot[..., 3, 4] = 1
    assert float(Resample("down", taps)(spot).sum()) == pytest.approx(1 / 4)
    assert float(Resample("up", taps)(spot).sum()) == pytest.approx(4)


@pytest.mark.parametrize("network", [Ddpmpp, Ncsnpp])
def test_no_augmentation_is_a_vector_of_zeros(network: type[Ddpmpp | Ncsnpp]) -> None:
    net = network(**SONG, augment_dim=9).build(8, 3, 0).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, c_noise = torch.randn(2, 3, 8, 8), torch.tensor([-1.0, 1.0])
    plain = net(x, c_noise)
    torch.testing.assert_close(net(x, c_noise, augment=torch.zeros(2, 9)), plain, rtol=0, atol=0)
    changed = net(x, c_noise, augment=torch.tensor([[0.0] * 9, [1.0] * 9]))
    torch.testing.assert_close(changed[0], plain[0])
    assert float((changed[1] - plain[1]).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("network", [Ddpmpp, Ncsnpp])
def test_song_starts_with_glorot_weights(network: type[Ddpmpp | Ncsnpp]) -> None:
    """Uniform with variance 2 / (fan in + fan out), times 0.2 for q, k, v and tiny at the ends."""
    net = network(channels=32, channel_mult=(1, 2), blocks=1, attention=(4,)).build(8, 3, 10)
    gains = {"conv2": 1e-5, "proj": 1e-5, "out_conv": 1e-5, "qkv": math.sqrt(0.2)}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            area = math.prod(weight.shape[2:])
            bound = math.sqrt(6 / (area * (weight.shape[0] + weight.shape[1])))
            bound *= gains.get(name.rpartition(".")[2], 1.0)
            assert 0.95 * bound < float(weight.abs().max()) <= bound, name
            assert module.bias is not None
            assert not module.bias.any(), name


def test_ncsnpp_draws_its_frequencies_with_the_given_scale() -> None:
    net = Ncsnpp(channels=512, channel_mult=(1,), blocks=1, attention=(), fourier_scale=4.0)
    frequencies = net.build(8, 3, 0).state_dict()["embedding.frequencies"]
    assert frequencies.shape == (512,)
    assert float(frequencies.std()) == pytest.approx(4.0, rel=0.1)


def test_adm_starts_with_every_residual_branch_at_zero() -> None:
    spec = Adm(channels=32, channel_mult=(1, 2), blocks=1, attention=(8,), head_channels=32)
    for name, parameter in spec.build(8, 3, 10).named_parameters():
        zero = name.split(".")[-2] in ("conv2", "proj", "out_conv")
        zero = zero or (name.split(".")[-2].startswith(("norm", "out_norm")) and "bias" in name)
        assert bool(parameter.any()) is not zero, name


def test_heads_of_the_two_flavors() -> None:
    edm = Adm(channels=32, head_channels=64, flavor="edm")
    assert [edm.heads(c) for c in (32, 64, 160)] == [0, 1, 2]
    assert [edm.groups(c) for c in (32, 64, 160)] == [8, 16, 32]
    openai = Adm(channels=32, head_channels=64)
    assert [openai.heads(c) for c in (64, 128)] == [1, 2]
    assert openai.groups(64) == 32
    with pytest.raises(ValueError, match=r"^head_channels: a width of 160 is no multiple of 64$"):
        openai.heads(160)


@pytest.mark.parametrize("network", [Adm, Ddpmpp, Ncsnpp])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 7}, "channels: needs an even number of at least 4, got 7"),
        ({"channel_mult": ()}, "channel_mult: needs one factor of at least 1 per level, got ()"),
        ({"blocks": 0}, "blocks: needs at least 1, got 0"),
        ({"dropout": 1.0}, "dropout: needs 0 <= dropout < 1, got 1.0"),
    ],
)
def test_senseless_fields(network: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        network(**fields)
    assert str(caught.value) == message


def test_senseless_fields_of_adm() -> None:
    with pytest.raises(ValueError, match=r"^head_channels: needs at least 0, got -1$"):
        Adm(head_channels=-1)
    with pytest.raises(ValueError, match=r"^norm_groups: needs at least 1, got 0$"):
        Adm(norm_groups=0)
    with pytest.raises(ValueError, match=r"^flavor: needs 'openai', 'edm' or 'ddpm', got 'diffu"):
        Adm(flavor="diffusers")  # type: ignore[arg-type]


def test_networks_that_do_not_fit_the_images() -> None:
    with pytest.raises(ValueError, match=r"^channel_mult: 3 levels need .* by 4, got 30$"):
        Ddpmpp().build(30, 3, 0)
    with pytest.raises(ValueError, match=r"^channels: a layer of 48 does not split into 32 groups"):
        Adm(channels=48, channel_mult=(1,)).build(8, 3, 0)
