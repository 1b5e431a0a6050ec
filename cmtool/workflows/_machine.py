"""What this machine can do, and what a recipe becomes on it."""

import importlib.util
import os
import shutil
from dataclasses import replace

import torch
from accelerate.utils import is_tensorboard_available, is_wandb_available

from cmtool.errors import DeviceError, Say
from cmtool.recipe import TrainSettings


def resolve(settings: TrainSettings, device: torch.device, say: Say) -> TrainSettings:
    """Replaces what the machine decides: device "auto", precision "auto" and compilation without a
    compiler.

    Raises:
        DeviceError: A precision that the device does not have, or a tracker that is not installed,
            was asked for by name.
    """
    installed = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    if settings.tracker in installed and not installed[settings.tracker]():
        raise DeviceError(
            f"tracker '{settings.tracker}' is not installed",
            f"pip install 'cmtool[{settings.tracker}]'",
        )
    if ":" in str(device):
        raise DeviceError(
            f"--device {device}: training takes the devices that it sees",
            f"CUDA_VISIBLE_DEVICES={device.index} cmtool ... --device {device.type}",
        )
    precision, compiled = settings.precision, settings.compile
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "no"
        if precision == "no":
            say(f"no bf16 hardware on {device.type}: training in float32")
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("precision 'fp16' needs a GPU", "--precision bf16 or --precision no")
    if compiled and device.type == "cpu" and cpp_compiler() is None:
        say("no C++ compiler found (g++ or clang++): running uncompiled, in float32")
        compiled, precision = False, "no"
    return replace(settings, device=device.type, precision=precision, compile=compiled)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is done in hardware there."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def devices() -> dict[str, tuple[torch.device, str]]:
    """What there is to compute on, with a few words about each."""
    found = {"cpu": (torch.device("cpu"), f"threads: {torch.get_num_threads()}")}
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        told = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
        found[f"cuda:{i}"] = (torch.device("cuda", i), told)
    if torch.backends.mps.is_available():
        found["mps"] = (torch.device("mps"), "Apple's GPU")
    return found


def precisions(device: torch.device) -> str:
    """What a device's matrix products may be in, as `train.precision` has it."""
    if device.type == "cpu":
        return f"bf16 {'in hardware' if has_bf16(device) else 'without hardware'}, no fp16, no tf32"
    if device.type == "cuda":
        # From compute capability 8.0 on both are in the tensor cores.
        newer = torch.cuda.get_device_properties(device).major >= 8
        return "bf16, fp16, tf32" if newer else "fp16, no bf16, no tf32"
    return "fp16, no bf16, no tf32"


def compiles(device: torch.device) -> str:
    """Whether `torch.compile` works on a device."""
    if device.type == "cpu":
        found = cpp_compiler()
        return f"torch.compile by {found}" if found else "no torch.compile: no g++ or clang++"
    if device.type == "cuda":
        there = importlib.util.find_spec("triton") is not None
        return "torch.compile by triton" if there else "no torch.compile: no triton"
    return "torch.compile by Metal"


def cpp_compiler() -> str | None:
    """The C++ compiler that `torch.compile` would use on a CPU."""
    candidates = [os.environ.get("CXX", "g++"), "clang++"]
    return next((path for name in candidates if (path := shutil.which(name))), None)
