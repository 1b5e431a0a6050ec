"""NVIDIA's pickles through `cmtool.load`, against the numbers of the reference."""

import io
import pickle
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

import cmtool
from cmtool.denoiser import Denoiser
from cmtool.errors import CheckpointError
from cmtool.foreign._persistence import module
from cmtool.workflows.load import open_model
from tests import golden_cases as golden
from tests import nvidia_files as made

FILES = [name for name in golden.cases() if (golden.folder() / f"{name}.pkl").is_file()]


def error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def answer(model: Denoiser, name: str) -> Tensor:
    case = golden.tensors(name)
    label = case["class_labels"].argmax(1) if "class_labels" in case else None
    with torch.no_grad():
        out: Tensor = model(case["x"], case["sigma"], label)
    return out


@pytest.mark.parametrize("name", FILES)
def test_every_pickle_gives_the_stored_numbers(name):
    config = golden.cases()[name]["config"]
    model = cmtool.load(golden.folder() / f"{name}.pkl", device="cpu")
    size, channels = config["img_resolution"], config["img_channels"]
    assert model.image_shape == (channels, size, size)
    assert model.num_classes == config["label_dim"]
    assert model.kind == "diffusion"
    assert error(answer(model, name), golden.tensors(name)["denoised"]) <= 1e-5


def test_there_are_files():
    sources = " ".join(golden.cases()[name]["source"] for name in FILES)
    for form in ("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond", "NVlabs/edm2"):
        assert form in sources


@pytest.fixture
def write(tmp_path):
    def put(content: bytes, name: str = "model.pkl"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return put


def small_answers(model: Denoiser) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, made.CHANNELS, made.SIZE, made.SIZE, generator=generator)
    with torch.no_grad():
        out: Tensor = model(x, torch.tensor([0.01, 0.7, 30.0]), torch.tensor([0, 2, -1]))
    return out


def test_a_training_state_holds_the_same_network(write):
    pickle = cmtool.load(write(made.pickle_of(made.snapshot(made.small()))), device="cpu")
    state = cmtool.load(write(made.training_state(), "training-state-1.pt"), device="cpu")
    assert torch.equal(small_answers(pickle), small_answers(state))


def test_half_precision_is_widened(write):
    weights = made.small_weights(torch.float16)
    model = made.small({name: made.parameter(tensor) for name, tensor in weights.items()})
    half = cmtool.load(write(made.pickle_of(made.snapshot(model)), "half.pkl"), device="cpu")
    full = cmtool.load(write(made.pickle_of(made.snapshot(made.small()))), device="cpu")
    assert {p.dtype for p in half.network.parameters()} == {torch.float32}
    assert 0 < error(small_answers(half), small_answers(full)) < 1e-2


class Persistent(torch.nn.Module):
    """Reduces as NVIDIA's decorated classes do."""

    def __init__(self, kind: str, **fields: object) -> None:
        super().__init__()
        self.__dict__.update(fields, kind=kind)

    def __reduce__(self):
        reconstruct = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit"}
        return reconstruct, ({**meta, "class_name": self.kind, "state": self.__dict__},)


def persistent(value: object) -> object:
    """The same module, of real torch objects, to be pickled by Python and torch themselves."""
    found = module(value)
    if found is None:
        return value
    keep = ("_parameters", "_buffers", "_modules")
    here = Persistent(found.kind, **{k: v for k, v in found.fields.items() if k not in keep})
    for name, child in found.fields["_modules"].items():
        here._modules[name] = persistent(child)
    return here


def filled(model: torch.nn.Module) -> torch.nn.Module:
    for name, tensor in made.small_weights().items():
        *path, last = name.split(".")
        owner = model
        for part in path:
            owner = owner._modules[part]
        owner._parameters[last] = torch.nn.Parameter(tensor)
    return model


@pytest.mark.parametrize("how", ["pickle", "pickle 3", "zip", "old"])
def test_files_as_python_and_torch_write_them(write, tmp_path, monkeypatch, how):
    fake = ModuleType("torch_utils.persistence")
    exec("def _reconstruct_persistent_obj(meta): raise SystemExit", fake.__dict__)
    fake._reconstruct_persistent_obj.__module__ = fake.__name__
    monkeypatch.setitem(sys.modules, "torch_utils", ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", fake)
    model = filled(persistent(made.small(_rate=np.float64(0.5), _set={"a"})))
    content, path = io.BytesIO(), tmp_path / "written.pkl"
    if how.startswith("pickle"):
        protocol = 3 if how == "pickle 3" else pickle.DEFAULT_PROTOCOL
        pickle.dump({"ema": model, "dataset_kwargs": {}}, content, protocol)
    else:
        zipped = how == "zip"
        torch.save({"net": model}, content, _use_new_zipfile_serialization=zipped)
    path.write_bytes(content.getvalue())
    ours = cmtool.load(write(made.pickle_of(made.snapshot(made.small()))), device="cpu")
    theirs = cmtool.load(path, device="cpu")
    assert torch.equal(small_answers(ours), small_answers(theirs))


@pytest.mark.parametrize(("told", "boundary"), [(0.003, 0.003), (0.02, 0.02), (0.0, 0.003)])
def test_ect_is_the_identity_at_its_boundary(write, told, boundary):
    content = made.pickle_of(made.snapshot(made.small(kind="ECMPrecond", sigma_min=told)))
    model = cmtool.load(write(content), device="cpu")
    assert model.kind == "consistency"
    assert model.schedule.t_min == boundary
    x = torch.randn(2, made.CHANNELS, made.SIZE, made.SIZE)
    with torch.no_grad():
        assert torch.equal(model(x, boundary), x)
        assert not torch.allclose(model(x, 2 * boundary), x)


def test_a_teacher_of_the_same_weights_differs_by_the_boundary_alone(write):
    ect = made.small(kind="ECMPrecond", sigma_min=0.003)
    consistency = cmtool.load(write(made.pickle_of(made.snapshot(ect)), "ect.pkl"), device="cpu")
    edm = cmtool.load(write(made.pickle_of(made.snapshot(made.small()))), device="cpu")
    x, sigma = torch.randn(1, made.CHANNELS, made.SIZE, made.SIZE), torch.tensor([2.0])
    with torch.no_grad():
        raw = (edm(x, sigma) - 0.25 / 4.25 * x) / (1.0 / 4.25**0.5)
        shifted = 2.0 - 0.003
        skip, out = 0.25 / (shifted**2 + 0.25), shifted * 0.5 / 4.25**0.5
        assert error(consistency(x, sigma), skip * x + out * raw) <= 1e-5


def test_edm2_without_its_head_is_ects_and_latents_are_refused(write, monkeypatch):
    file = golden.folder() / "edm2_small.pkl"
    if not file.is_file():
        pytest.skip("no edm2_small.pkl among the golden files")
    value, _ = made.pickled.read(file.read_bytes(), lambda name: True)
    modules = value["ema"].args[0]["state"]["_modules"]
    head = {name: modules.pop(name) for name in list(modules) if name.startswith("logvar")}
    assert head
    model = cmtool.load(write(made.pickle_of(value)), device="cpu")
    assert model.kind == "consistency"
    assert error(answer(model, "edm2_small"), golden.tensors("edm2_small")["denoised"]) <= 1e-5
    told = cmtool.load(write(made.pickle_of(value)), device="cpu", precond="edm")
    assert told.kind == "diffusion"
    value["encoder"] = made.module_of("StabilityVAEEncoder", {})
    with pytest.raises(CheckpointError, match="a model of latents, made by 'StabilityVAEEncoder'"):
        cmtool.load(write(made.pickle_of(value)), device="cpu")


def test_facts_that_a_file_knows_itself_are_refused(write):
    path = write(made.pickle_of(made.snapshot(made.small())))
    with pytest.raises(CheckpointError, match="--as image_size would contradict"):
        cmtool.load(path, device="cpu", image_size=8)
    assert cmtool.load(path, device="cpu", precond="consistency").kind == "consistency"


def test_a_range_that_the_user_gave_is_not_blamed_on_the_file(write):
    path = write(made.pickle_of(made.snapshot(made.small())))
    with pytest.raises(CheckpointError, match="--as: needs 0 < sigma_min < sigma_max") as caught:
        cmtool.load(path, device="cpu", sigma_min=90)
    assert "--as sigma_min" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kwargs": {"fourier_scale": 0.02}}, "unknown arguments.*fourier_scale"),
        ({"img_channels": 4}, "4 channels: only models of pixels"),
    ],
)
def test_what_would_make_another_network_is_refused(write, changes, says):
    path = write(made.pickle_of(made.snapshot(made.small(**changes))))
    with pytest.raises(CheckpointError, match=says):
        cmtool.load(path, device="cpu")


def test_arguments_without_names_are_refused(write):
    model = made.small()
    inner = model.args[0]["state"]["_modules"]["model"]
    inner.args[0]["state"]["_init_args"] = (8, 1)
    with pytest.raises(CheckpointError, match="arguments that have no names"):
        cmtool.load(write(made.pickle_of(made.snapshot(model))), device="cpu")


def test_the_weights_of_a_training_state_are_said_to_be_no_average(write):
    said: list[str] = []
    open_model(write(made.training_state(), "training-state-1.pt"), say=said.append)
    assert any("not an average" in line for line in said)
    open_model(write(made.pickle_of(made.snapshot(made.small()))), say=(said := []).append)
    assert said == []


def test_a_network_that_was_trained_without_classes_too_can_be_guided(write):
    hidden = made.small(kwargs={"label_dropout": 0.1})
    guided = cmtool.load(write(made.pickle_of(made.snapshot(hidden))), device="cpu")
    assert guided.guidable == (0.0, float("inf"), False)
    plain = cmtool.load(write(made.pickle_of(made.snapshot(made.small()))), device="cpu")
    assert plain.guidable is None


@pytest.mark.parametrize(("key", "value"), [("sigma_min", True), ("image_size", 8.7)])
def test_a_number_is_not_rounded_to_fit(write, key, value):
    path = write(made.pickle_of(made.snapshot(made.small())))
    with pytest.raises(CheckpointError, match=f"--as {key}: expected"):
        cmtool.load(path, device="cpu", **{key: value})
