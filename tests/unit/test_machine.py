"""What a recipe becomes on a machine that lacks something."""

import pytest
import torch

from cmtool.errors import DeviceError
from cmtool.settings import TrainSettings
from cmtool.workflows import _machine
from cmtool.workflows._machine import resolve

CPU = torch.device("cpu")


def test_without_a_compiler_it_runs_uncompiled_in_float32_and_says_so(monkeypatch):
    monkeypatch.setattr(_machine, "cpp_compiler", lambda: None)
    monkeypatch.setattr(_machine, "has_bf16", lambda device: True)
    said = []
    settings = resolve(TrainSettings(compile=True, precision="auto"), CPU, said.append)
    assert (settings.compile, settings.precision) == (False, "no")
    assert any("no C++ compiler" in line and "float32" in line for line in said)


@pytest.mark.parametrize(("hardware", "precision"), [(True, "bf16"), (False, "no")])
def test_auto_precision_asks_the_hardware(monkeypatch, hardware, precision):
    monkeypatch.setattr(_machine, "has_bf16", lambda device: hardware)
    said = []
    assert resolve(TrainSettings(precision="auto"), CPU, said.append).precision == precision
    assert hardware or any("no bf16 hardware" in line for line in said)


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(DeviceError, match="precision 'fp16' needs a GPU"):
        resolve(TrainSettings(precision="fp16"), CPU, print)
