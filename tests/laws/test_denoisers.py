"""Laws of the preconditionings and of the Denoiser."""

import pytest
import torch
from torch import nn

from cmtool.denoiser import EDM, Consistency, Denoiser
from cmtool.networks.tiny import Tiny
from cmtool.schedules.karras import Karras

SHAPE = (3, 8, 8)


def _model(precond, kind="consistency", num_classes=0):
    torch.manual_seed(0)
    network = Tiny(width=16, patch=1).build(8, 3, num_classes)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    classes = tuple("abc"[:num_classes])
    return Denoiser(network, precond, Karras(), kind, SHAPE, classes)


@pytest.mark.parametrize("boundary", [0.002, 0.003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_consistency_model_is_the_identity_at_its_boundary(boundary, dtype):
    model = _model(Consistency(boundary=boundary)).to(dtype)
    x = torch.randn(4, *SHAPE, dtype=dtype)
    assert torch.equal(model(x, boundary), x)


def test_consistency_scalings_equal_the_papers():
    t = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)
    c = Consistency(EDM(sigma_data=0.5), boundary=0.002)(t)
    torch.testing.assert_close(c.c_skip, 0.25 / ((t - 0.002) ** 2 + 0.25))
    torch.testing.assert_close(c.c_out, 0.5 * (t - 0.002) / (t**2 + 0.25).sqrt())
    torch.testing.assert_close(c.c_in, 1 / (t**2 + 0.25).sqrt())
    torch.testing.assert_close(c.c_noise, t.log() / 4)


def test_edm_scalings_give_unit_variance_in_and_out():
    """Var[c_in x_t] = 1 and Var[(x - c_skip x_t) / c_out] = 1 for data of variance sigma_data^2."""
    sd = 0.7
    t = torch.logspace(-3, 2, 20, dtype=torch.float64)
    c = EDM(sigma_data=sd)(t)
    torch.testing.assert_close(c.c_in**2 * (sd**2 + t**2), torch.ones_like(t))
    target = ((1 - c.c_skip) ** 2 * sd**2 + c.c_skip**2 * t**2) / c.c_out**2
    torch.testing.assert_close(target, torch.ones_like(t))


def test_openai_noise_embedding_is_a_thousand_times_edms():
    t = torch.tensor([0.5])
    torch.testing.assert_close(EDM(noise_scale=250.0)(t).c_noise, 1000 * EDM()(t).c_noise)


def test_output_is_float32_under_autocast():
    model = _model(EDM(), "diffusion")
    x = torch.randn(2, *SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, 1.0)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, model(x, 1.0), rtol=0.05, atol=0.05)


def test_guidance_extrapolates_from_no_class_to_the_class():
    model = _model(EDM(), "diffusion", num_classes=3).double()
    x, t = torch.randn(2, *SHAPE).double(), torch.tensor([1.0, 2.0]).double()
    label = torch.tensor([0, 2])
    with_label, without = model(x, t, label), model(x, t, None)
    assert (with_label - without).abs().max() > 1e-3
    guided = model.bind(label, guidance=3.0)(x, t)
    torch.testing.assert_close(guided, without + 3 * (with_label - without))
    torch.testing.assert_close(model.bind(label)(x, t), with_label)


def test_clamping_is_only_done_on_request():
    model = _model(EDM(), "diffusion")
    x, t = 5 * torch.randn(2, *SHAPE), torch.full((2,), 0.5)
    assert model.bind()(x, t).abs().max() > 1
    assert model.bind(clamp=True)(x, t).abs().max() <= 1
