"""Whole denoisers against the reference: files through `cmtool.load`, else through the key map."""

import pytest
import torch

import cmtool
from cmtool.denoiser import EDM, Consistency, Denoiser
from cmtool.foreign import nvidia, openai
from cmtool.networks.adm import Adm
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.networks.ncsnpp import Ncsnpp
from cmtool.schedules.karras import Karras
from tests import golden_cases as golden

OPENAI = golden.network_cases("UNetModel")
EDM_CASES = [name for name in golden.network_cases("SongUNet") if name.startswith("edm_")]
FORMS = {"denoised_edm": "edm", "denoised_cm": "consistency"}


def _close(ours, theirs):
    assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5


def _from_key_map(config, weights, precond):
    size, channels = config["image_size"], config["in_channels"]
    classes = config["num_classes"] or 0
    spec, _, _ = openai.infer(weights, size, config["num_head_channels"])
    assert spec == Adm(
        channels=config["model_channels"],
        channel_mult=tuple(config["channel_mult"]),
        blocks=config["num_res_blocks"],
        attention=spec.attention,
        head_channels=config["num_head_channels"],
        scale_shift=config["use_scale_shift_norm"],
        resblock_updown=config["resblock_updown"],
    )
    network = spec.build(size, channels, classes)
    network.load_state_dict(openai.to_ours(weights, spec, size, channels, classes))
    form = EDM(noise_scale=250.0) if precond == "edm" else Consistency(EDM(noise_scale=250.0))
    shape, names = (channels, size, size), tuple(map(str, range(classes)))
    return Denoiser(network, form, Karras(), "diffusion", shape, names).eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", OPENAI)
def test_openai_models(name, form):
    config, stored = golden.cases()[name]["config"], golden.tensors(name)
    file = golden.folder() / f"{name}.pt"
    if file.is_file():
        facts = {"image_size": config["image_size"], "head_channels": config["num_head_channels"]}
        model = cmtool.load(file, device="cpu", precond=FORMS[form], **facts)
        assert model.kind == ("diffusion" if form == "denoised_edm" else "consistency")
        assert model.num_classes == (config["num_classes"] or 0)
    else:
        model = _from_key_map(config, golden.weights(name), FORMS[form])
    with torch.no_grad():
        _close(model(stored["x_t"], stored["sigma"], stored.get("y")), stored[form])


@pytest.mark.parametrize("name", EDM_CASES)
def test_edm_models(name):
    config, stored = golden.cases()[name]["config"], golden.tensors(name)
    kind = Ddpmpp if config["embedding_type"] == "positional" else Ncsnpp
    size, channels, classes = config["img_resolution"], config["img_channels"], config["label_dim"]
    spec = kind(
        channels=config["model_channels"],
        channel_mult=tuple(config["channel_mult"]),
        blocks=config["num_blocks"],
        attention=tuple(config["attn_resolutions"]),
    )
    network = spec.build(size, channels, classes)
    network.load_state_dict(nvidia.to_ours(golden.weights(name), spec, size, channels, classes))
    names = tuple(map(str, range(classes)))
    shape = (channels, size, size)
    model = Denoiser(network, EDM(), Karras(), "diffusion", shape, names).eval()
    label = stored["class_labels"].argmax(1) if classes else None
    with torch.no_grad():
        _close(model(stored["x"], stored["sigma"], label), stored["denoised"])


def test_there_are_cases():
    assert len(OPENAI) >= 3
    assert len(EDM_CASES) >= 2
    assert list(golden.folder().glob("adm_*.pt"))
