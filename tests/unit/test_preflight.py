"""The preflight of losses that take a derivative along the trajectory."""

from dataclasses import replace

import pytest
import torch

from cmtool.checkpoint import Meta, build
from cmtool.errors import RecipeError
from cmtool.losses.base import Loss
from cmtool.losses.cd import CD
from cmtool.losses.ct_continuous import CTContinuous
from cmtool.losses.dsm import DSM
from cmtool.losses.ect import ECT
from cmtool.losses.pd import PD
from cmtool.losses.scd import SCD
from cmtool.losses.sct import SCT
from cmtool.networks.adm import Adm
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.networks.edm2 import Edm2
from cmtool.networks.ncsnpp import Ncsnpp
from cmtool.networks.tiny import Tiny
from cmtool.recipe import DenoiserSettings, Recipe, TrainSettings, parse
from cmtool.workflows._preflight import (
    check_scalings,
    check_tangent,
    say_known_trouble,
    time_ratio,
)

SMALL = {"channels": 32, "channel_mult": (1, 2), "blocks": 1, "attention": (4,)}


def recipe(network, loss=None, noise_scale=0.25, precision="no") -> Recipe:
    plain = parse('[loss]\nname = "sct"\n', "test")
    return replace(
        plain,
        network=network,
        loss=loss or SCT(),
        denoiser=DenoiserSettings(noise_scale=noise_scale),
        train=TrainSettings(precision=precision),
    )


def model(chosen):
    torch.manual_seed(0)
    return build(chosen, Meta("consistency", (3, 8, 8)))


def checked(chosen, fresh=True):
    said = []
    check_tangent(chosen, model(chosen), fresh=fresh, say=said.append)
    return said


@pytest.mark.parametrize(
    ("network", "low", "high"),
    [
        (Tiny(width=32), 0.2, 0.7),
        (Ddpmpp(**SMALL), 0.02, 0.1),
        (Adm(**SMALL, head_channels=32), 0.01, 0.1),
        (Ncsnpp(**SMALL, fourier_scale=0.02), 0.005, 0.05),
        (Ncsnpp(**SMALL), 10, 25),
    ],
)
def test_ratio_tells_slow_embeddings_from_fast_ones(network, low, high):
    """A positional embedding gives a few hundredths, Fourier features of scale 16 about 15."""
    ratio, _ = max(time_ratio(model(recipe(network)), fresh=True))
    assert low < ratio < high


def test_ratio_is_the_finite_difference_of_trained_weights():
    student = model(recipe(Tiny(width=16)))
    for parameter in student.network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    before = {k: v.clone() for k, v in student.state().items()}
    found = dict((sigma, ratio) for ratio, sigma in time_ratio(student, fresh=False))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, 8, 8, generator=g)[8:12].double()
    net = student.network.double()
    h = 1e-5
    c = [0.25 * torch.full((4,), 2.0).double().log() + 0.25 * s for s in (0, h, -h)]
    value, ahead, behind = (net(x, each) for each in c)
    assert found[2.0] == pytest.approx(
        float((ahead - behind).norm().detach() / (2 * h) / value.norm().detach()), rel=1e-3
    )
    assert all(torch.equal(before[k], v.float()) for k, v in student.state().items())


def test_a_calm_network_passes_and_is_told_how_the_derivative_is_taken():
    (line,) = checked(recipe(Ddpmpp(**SMALL)))
    assert "in float32, without TF32; attention by the plain formula" in line
    (line,) = checked(recipe(Ddpmpp(**SMALL), SCT(tangent_precision="autocast"), precision="bf16"))
    assert "in bf16" in line


def test_a_fast_embedding_is_warned_of_with_the_cure():
    said = checked(recipe(Ncsnpp(**SMALL), CTContinuous()))
    assert "warning: the network changes" in said[1]
    assert said[2].strip() == "--set network.fourier_scale=0.02"
    said = checked(recipe(Adm(**SMALL, head_channels=32), noise_scale=250.0))
    assert "--set denoiser.noise_scale=0.25" in said[2]


def test_a_wild_embedding_is_refused_unless_allowed():
    wild = recipe(Ncsnpp(**SMALL), noise_scale=250.0)
    with pytest.raises(RecipeError, match=r"above loss\.tangent_limit 50") as caught:
        checked(wild)
    assert "--set denoiser.noise_scale=0.25 --set network.fourier_scale=0.02" in caught.value.hint
    assert "--set loss.tangent_limit=" in caught.value.hint
    assert "warning" in checked(replace(wild, loss=SCT(tangent_limit=1e6)))[1]
    with pytest.raises(RecipeError, match=r"tangent_limit 0\.1"):
        checked(recipe(Tiny(width=16), SCT(tangent_limit=0.1)))


@pytest.mark.parametrize(
    ("fields", "loss", "message"),
    [
        ({"scalings": "ddpm", "prediction": "sample"}, CD(), "is the identity at no noise level"),
        ({"scalings": "ddpm", "prediction": "sample"}, ECT(), "is the identity at no noise level"),
        ({"scalings": "vp"}, SCD(), "written for denoiser.scalings 'edm', not 'vp'"),
        ({"scalings": "ddpm"}, CTContinuous(), "knows numbered levels alone"),
    ],
)
def test_scalings_that_a_loss_cannot_take(fields, loss: Loss, message: str):
    with pytest.raises(RecipeError, match=message) as caught:
        check_scalings(DenoiserSettings(**fields), loss)
    assert "--method" in caught.value.hint


def test_scalings_that_a_loss_can_take():
    for form in ("edm", "vp", "ve", "ddpm"):
        check_scalings(DenoiserSettings(scalings=form), CD())
    check_scalings(DenoiserSettings(scalings="ddpm", prediction="sample"), PD())
    check_scalings(DenoiserSettings(scalings="vp"), CTContinuous())
    check_scalings(DenoiserSettings(), SCD())


def test_edm2s_trouble_is_said_before_it_becomes_a_consistency_model():
    said = []
    for network, loss in ((Edm2(), DSM()), (Edm2(), ECT()), (Ddpmpp(), CD())):
        say_known_trouble(recipe(network, loss), said.append)
    assert not said
    say_known_trouble(recipe(Edm2(), CD()), said.append)
    assert "known to fail as a consistency model" in said[0]
    assert "--method ect" in said[1]


def test_scalings_that_make_errors_grow_are_noted():
    said = []
    plain = recipe(Ddpmpp(), CD())
    say_known_trouble(plain, said.append)
    form = DenoiserSettings(scalings="vp")
    say_known_trouble(replace(plain, denoiser=form, loss=CD(weighting="snr")), said.append)
    say_known_trouble(replace(plain, denoiser=form, loss=DSM()), said.append)
    assert not said
    say_known_trouble(replace(plain, denoiser=form), said.append)
    assert "--set loss.weighting=snr" in said[0]


def test_edm2s_cure_slows_its_time_input():
    """1.5 and 0.03 times the output with these random weights."""
    small = {"channels": 32, "channel_mult": (1, 2), "blocks": 1, "attention": (4,)}
    ratio, _ = max(time_ratio(model(recipe(Edm2(**small))), fresh=True))
    slow = Edm2(**small, fourier_scale=0.02, normalize_affine=True)
    cured, _ = max(time_ratio(model(recipe(slow)), fresh=True))
    assert ratio > 0.5
    assert cured < 0.1
