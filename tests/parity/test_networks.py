"""The networks against the reference's outputs, with weights carried over by the key maps."""

from typing import Any

import golden_cases
import pytest
import torch
from torch import Tensor, nn

from cmtool.foreign import nvidia, openai
from cmtool.networks.adm import Adm
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.networks.ncsnpp import Ncsnpp

TOLERANCE = 1e-5


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", golden_cases.network_cases("UNetModel"))
def test_openai_network(name: str) -> None:
    config = golden_cases.cases()[name]["config"]
    state = golden_cases.weights(name)
    assert openai.is_openai(state)
    size = config["image_size"]
    spec, channels, num_classes = openai.infer(state, size, config["num_head_channels"])
    net = spec.build(size, channels, num_classes).eval()
    net.load_state_dict(openai.to_ours(state, spec, size, channels, num_classes))
    case = golden_cases.tensors(name)
    with torch.no_grad():
        out = net(case["x"], case["t"], case.get("y"))
    assert error(out, case["out"]) <= TOLERANCE


@pytest.mark.parametrize("name", golden_cases.network_cases("SongUNet", "DhariwalUNet"))
def test_nvidia_network(name: str) -> None:
    case, config = golden_cases.tensors(name), golden_cases.cases()[name]["config"]
    spec = nvidia_spec(config)
    facts = (config["img_resolution"], config["img_channels"], config["label_dim"])
    net = spec.build(*facts).eval()
    net.load_state_dict(nvidia.to_ours(golden_cases.weights(name), spec, *facts))
    label = case["class_labels"].argmax(1) if "class_labels" in case else None
    source = golden_cases.cases()[name]["source"]
    with torch.no_grad():
        denoised = denoise(source, net, case["x"], case["sigma"], label, case)
    assert error(denoised, case["denoised"]) <= TOLERANCE


def nvidia_spec(config: dict[str, Any]) -> Adm | Ddpmpp | Ncsnpp:
    fields: dict[str, Any] = {
        "channels": config["model_channels"],
        "channel_mult": tuple(config["channel_mult"]),
        "blocks": config["num_blocks"],
        "attention": tuple(config["attn_resolutions"]),
    }
    if config["model_type"] == "DhariwalUNet":
        return Adm(**fields, flavor="edm")
    if config.get("embedding_type", "positional") == "fourier":
        return Ncsnpp(**fields)
    return Ddpmpp(**fields)


def denoise(
    source: str,
    net: nn.Module,
    x: Tensor,
    sigma: Tensor,
    label: Tensor | None,
    case: dict[str, Tensor],
) -> Tensor:
    """The four preconditionings of the EDM repository (Karras et al. 2022, Table 1)."""
    s = sigma[:, None, None, None]
    if "VPPrecond" in source:
        beta_d, beta_min = 19.9, 0.1
        time = ((beta_min**2 + 2 * beta_d * (1 + sigma**2).log()).sqrt() - beta_min) / beta_d
        return x - s * net(x / (s**2 + 1).sqrt(), 999 * time, label)
    if "VEPrecond" in source:
        return x + s * net(x, (sigma / 2).log(), label)
    if "iDDPMPrecond" in source:
        levels = case["buffers.u"]
        nearest = (sigma[:, None] - levels).abs().argmin(1)
        c_noise = (len(levels) - 2 - nearest).to(sigma.dtype)
        return x - s * net(x / (s**2 + 1).sqrt(), c_noise, label)
    total = s**2 + 0.25
    return 0.25 / total * x + s * 0.5 / total.sqrt() * net(x / total.sqrt(), sigma.log() / 4, label)


@pytest.mark.parametrize("name", golden_cases.network_cases("SongUNet", "DhariwalUNet"))
def test_nvidia_names_go_there_and_back(name: str) -> None:
    config = golden_cases.cases()[name]["config"]
    spec, state = nvidia_spec(config), golden_cases.weights(name)
    facts = (config["img_resolution"], config["img_channels"], config["label_dim"])
    back = nvidia.to_theirs(nvidia.to_ours(state, spec, *facts), spec, *facts)
    assert set(state) - set(back) <= set(golden_cases.cases()[name]["weights"]["buffers"])
    for key, tensor in back.items():
        # iDDPM has as many variances behind the outputs that we keep.
        assert torch.equal(tensor, state[key][: len(tensor)]), key
