"""What this machine can do, and what a recipe becomes on it."""

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


def cpp_compiler() -> str | None:
    """The C++ compiler that `torch.compile` would use on a CPU."""
    candidates = [os.environ.get("CXX", "g++"), "clang++"]
    return next((path for name in candidates if (path := shutil.which(name))), None)
