"""Reads the golden numbers: the cases of `index.json`, their tensors, their weights by rule."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def folder() -> Path:
    """The folder that holds the cases: `CMTOOL_GOLDEN` if that is set."""
    return Path(os.environ.get("CMTOOL_GOLDEN") or Path(__file__).parent / "golden")


def cases() -> dict[str, dict[str, Any]]:
    """All cases by name."""
    found: dict[str, dict[str, Any]] = json.loads((folder() / "index.json").read_text())
    return found


def network_cases(*model_types: str) -> list[str]:
    """Names of the cases of NVIDIA's networks of the given types; "UNetModel" is OpenAI's."""

    def model_type(case: dict[str, Any]) -> str | None:
        if "weights" not in case:
            return None
        return "UNetModel" if "UNetModel" in case["source"] else case["config"].get("model_type")

    return [name for name, case in cases().items() if model_type(case) in model_types]


def tensors(name: str) -> dict[str, Tensor]:
    """The tensors of a case."""
    return load_file(folder() / f"{name}.safetensors")


def weights(name: str) -> dict[str, Tensor]:
    """The state dict of a case under the reference's own names, buffers included."""
    recipe = cases()[name]["weights"]
    stored = tensors(name)
    buffers = {key: stored[f"buffers.{key}"] for key in recipe["buffers"]}
    return parameters(recipe["parameters"], recipe["seed"]) | buffers


def parameters(shapes: Mapping[str, list[int]], seed: int) -> dict[str, Tensor]:
    """Normal numbers in the order of the sorted names, scaled by the kind of parameter."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name in sorted(shapes):
        z = torch.randn(shapes[name], generator=generator)
        if z.ndim >= 2:
            made[name] = z * (0.7 / math.sqrt(z.numel() / z.shape[0]))
        elif z.ndim == 0:
            made[name] = 0.5 + 0.1 * z
        else:
            made[name] = (1.0 if name.endswith("weight") else 0.0) + 0.1 * z
    return made
