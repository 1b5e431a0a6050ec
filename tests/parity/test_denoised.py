"""Whole denoisers against the reference: files through `cmtool.load`, else through the key map."""

import os

import pytest
import torch

import cmtool
from cmtool.denoiser import EDM, Consistency, Denoiser
from cmtool.foreign import edm2, nvidia, openai
from cmtool.networks.adm import Adm
from cmtool.networks.ddpmpp import Ddpmpp
from cmtool.networks.ncsnpp import Ncsnpp
from cmtool.preconditioner import DDPM, preconditioner
from cmtool.schedules.karras import Karras
from cmtool.settings import DenoiserSettings
from tests import golden_cases as golden

OPENAI = golden.network_cases("UNetModel")
NVIDIA = [
    name
    for name, case in golden.cases().items()
    if "weights" in case and case["source"].startswith("NVlabs")
]
FORMS = {"denoised_edm": "edm", "denoised_cm": "consistency"}
WRAPPED = {
    "EDMPrecond": {},
    "Precond": {},
    "VPPrecond": {"scalings": "vp"},
    "VEPrecond": {"scalings": "ve"},
    "iDDPMPrecond": {"scalings": "ddpm", "betas": "cosine"},
}


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


def _nvidia_from_key_map(name):
    case = golden.cases()[name]
    config, weights = case["config"], golden.weights(name)
    facts = (config["img_resolution"], config["img_channels"], config["label_dim"])
    if "edm2" in case["source"]:
        spec, *told = edm2.infer(config)
        assert tuple(told) == facts
        state = edm2.to_ours(weights, spec, *facts)
    else:
        fields = {
            "channels": config["model_channels"],
            "channel_mult": tuple(config["channel_mult"]),
            "blocks": config["num_blocks"],
            "attention": tuple(config["attn_resolutions"]),
        }
        kind = Ncsnpp if config.get("embedding_type") == "fourier" else Ddpmpp
        adm = config["model_type"] == "DhariwalUNet"
        spec = Adm(**fields, flavor="edm") if adm else kind(**fields)
        state = nvidia.to_ours(weights, spec, *facts)
    network = spec.build(*facts)
    network.load_state_dict(state)
    form = preconditioner(DenoiserSettings(**WRAPPED[case["source"].split()[1]]))
    size, channels, classes = facts
    shape, names = (channels, size, size), tuple(map(str, range(classes)))
    return Denoiser(network, form, Karras(), "diffusion", shape, names).eval()


@pytest.mark.parametrize("name", NVIDIA)
def test_nvidia_models(name):
    stored, file = golden.tensors(name), golden.folder() / f"{name}.pkl"
    model = _nvidia_from_key_map(name)
    label = stored["class_labels"].argmax(1) if "class_labels" in stored else None
    with torch.no_grad():
        _close(model(stored["x"], stored["sigma"], label), stored["denoised"])
        if file.is_file():
            loaded = cmtool.load(file, device="cpu")
            _close(loaded(stored["x"], stored["sigma"], label), stored["denoised"])
            assert loaded.precond == model.precond
            assert loaded.num_classes == model.num_classes


def test_iddpms_levels_are_the_stored_ones():
    """u is stored from the noisiest level down, in float32, and ends with 0."""
    for name in (name for name in NVIDIA if name.startswith("iddpm")):
        u = golden.tensors(name)["buffers.u"].double()
        levels = DDPM(betas="cosine", timesteps=len(u) - 1).levels
        torch.testing.assert_close(levels.flip(0), u[:-1], rtol=1e-3, atol=0)


@pytest.mark.skipif("CMTOOL_GOLDEN" in os.environ, reason="another folder may hold fewer")
def test_there_are_cases():
    assert len(OPENAI) >= 3
    assert {golden.cases()[name]["source"].split()[1] for name in NVIDIA} == WRAPPED.keys()
    assert list(golden.folder().glob("adm_*.pt"))
    assert list(golden.folder().glob("*.pkl"))
