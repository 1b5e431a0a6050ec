"""OpenAI's layout through `cmtool.load`: the stored numbers from every file, under every name that
a training run gives it, also half in float16."""

from itertools import cycle
from pathlib import Path

import pytest
import torch
from torch import nn

import cmtool
from cmtool.errors import CheckpointError
from tests import golden_cases as golden

CASES = golden.network_cases("UNetModel")
FORMS = {"denoised_edm": "edm", "denoised_cm": "consistency"}
# What the reference's training run writes: averages, its own weights as parameters, and a target
# network of which the convolutions are in half precision.
NAMES = ("ema_0.9999_600000.pt", "model600000.pt", "target_model600000.pt")
SLOW = pytest.mark.slow


def told(name: str) -> dict[str, int]:
    config = golden.cases()[name]["config"]
    return {"image_size": config["image_size"], "head_channels": config["num_head_channels"]}


def distance(model, stored, form: str) -> float:
    with torch.no_grad():
        ours = model(stored["x_t"], stored["sigma"], stored.get("y"))
    return float((ours - stored[form]).abs().max() / stored[form].abs().max())


def written(name: str, kind: str, path: Path) -> Path:
    state = golden.weights(name)
    if kind.startswith("model"):
        state = {key: nn.Parameter(tensor) for key, tensor in state.items()}
    if kind.startswith("target"):
        state = {key: t.half() if t.ndim == 4 else t for key, t in state.items()}
    torch.save(state, path / kind)
    return path / kind


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("file", sorted(golden.folder().glob("*.pt")), ids=lambda path: path.name)
def test_every_golden_file(file: Path, form: str):
    assert file.stem in CASES, f"{file.name} has no case in index.json"
    model = cmtool.load(file, device="cpu", precond=FORMS[form], **told(file.stem))
    assert distance(model, golden.tensors(file.stem), form) <= 1e-5


@pytest.mark.parametrize(("name", "kind"), list(zip(CASES, cycle(NAMES), strict=False)))
def test_every_case_as_a_file(name: str, kind: str, tmp_path: Path):
    file = written(name, kind, tmp_path)
    tolerance = 1e-2 if kind.startswith("target") else 1e-5
    for form, precond in FORMS.items():
        model = cmtool.load(file, device="cpu", precond=precond, **told(name))
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert distance(model, golden.tensors(name), form) <= tolerance


@pytest.mark.parametrize("kind", [NAMES[0], *(pytest.param(k, marks=SLOW) for k in NAMES[1:])])
def test_a_preset_is_worth_all_facts(kind: str, tmp_path: Path):
    """`preset` sets form and boundary; the sizes of this small network are told beside it."""
    name = CASES[0]
    file = written(name, kind, tmp_path)
    tolerance = 1e-2 if kind.startswith("target") else 1e-5
    for preset, form in (("cd_imagenet64_l2", "denoised_cm"), ("edm_cat256_ema", "denoised_edm")):
        model = cmtool.load(file, device="cpu", preset=preset, **told(name))
        assert distance(model, golden.tensors(name), form) <= tolerance
        assert model.times == ({2: (80.0, 1.3824)} if form == "denoised_cm" else {})


@pytest.mark.parametrize(
    ("preset", "message", "hint"),
    [
        ("cd_imagenet46_l2", r"(did you mean 'cd_imagenet64_l2'?)", "names: edm_imagenet64_ema, "),
        ("cd-l1", "is no file of the layout of the preset 'cd-l1'", "--as edm_imagenet64_ema or "),
    ],
)
def test_a_preset_of_nothing_or_of_another_layout(
    preset: str, message: str, hint: str, tmp_path: Path
):
    file = written(CASES[0], NAMES[0], tmp_path)
    with pytest.raises(CheckpointError) as caught:
        cmtool.load(file, device="cpu", preset=preset)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


# guided-diffusion: the same names, other attention.


def heads_first(qkv: torch.Tensor, heads: int) -> torch.Tensor:
    """(q k v, head, d) to (head, q k v, d) along the first axis."""
    return qkv.reshape(3, heads, -1, *qkv.shape[1:]).movedim(0, 1).reshape(qkv.shape)


def in_the_other_order(name: str) -> dict[str, torch.Tensor]:
    width = told(name)["head_channels"]
    return {
        key: heads_first(t, t.shape[0] // 3 // width) if ".qkv." in key else t
        for key, t in golden.weights(name).items()
    }


@pytest.mark.parametrize("name", CASES)
def test_the_other_order_would_be_another_network(name: str, tmp_path: Path):
    """Which is why it must be told; where each attention has one head, there is but one order."""
    width = told(name)["head_channels"]
    heads = {t.shape[0] // 3 // width for key, t in golden.weights(name).items() if ".qkv.w" in key}
    torch.save(in_the_other_order(name), tmp_path / "a.pt")
    model = cmtool.load(tmp_path / "a.pt", device="cpu", precond="edm", **told(name))
    found = distance(model, golden.tensors(name), "denoised_edm")
    assert found <= 1e-5 if heads == {1} else found > 1e-3


def test_some_case_has_several_heads():
    widths = {name: told(name)["head_channels"] for name in CASES}
    assert any(
        t.shape[0] // 3 > widths[name]
        for name in CASES
        for key, t in golden.weights(name).items()
        if ".qkv.w" in key
    )


@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("order", ["heads first", "q k v first"])
def test_guided_diffusion_is_refused(learn_sigma: bool, order: str, tmp_path: Path):
    """Its attention is made of 1-d convolutions in either order, with variances or without."""
    name = CASES[0]
    state = in_the_other_order(name) if order == "heads first" else golden.weights(name)
    state = {
        key: t[..., 0] if (".qkv.w" in key or ".proj_out.w" in key) else t
        for key, t in state.items()
    }
    if learn_sigma:
        for key in ("out.2.weight", "out.2.bias"):
            state[key] = torch.cat([state[key], state[key]])
    torch.save(state, tmp_path / "64x64_diffusion.pt")
    with pytest.raises(CheckpointError, match="a guided-diffusion file"):
        cmtool.load(tmp_path / "64x64_diffusion.pt", device="cpu", **told(name))
