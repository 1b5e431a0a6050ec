"""Opens a model wherever it comes from: our directory, our single file, or published weights."""

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmtool import checkpoint, shipped
from cmtool.checkpoint import Checkpoint, Meta
from cmtool.denoiser import Denoiser
from cmtool.errors import (
    CheckpointError,
    DeviceError,
    Say,
    did_you_mean,
    foreign_name,
    silent,
)
from cmtool.foreign import diffusers, hub, jax, nvidia, openai, torch_file
from cmtool.foreign.base import Published
from cmtool.foreign.torch_file import TorchFile
from cmtool.losses.cd import CD
from cmtool.losses.dsm import DSM
from cmtool.recipe import Recipe
from cmtool.settings import DataSettings
from cmtool.solvers.heun import Heun
from cmtool.tensor_file import is_safetensors, read_tensors

PRESETS = (*openai.PRESETS, *jax.PRESETS)
"""Names of published files, of which more is known than their tensors tell."""
FACTS: dict[str, type] = {
    "preset": str,
    "image_size": int,
    "head_channels": int,
    "precond": str,
    "sigma_min": float,
    "sigma_max": float,
    "sigma_data": float,
    "scalings": str,
    "prediction": str,
    "betas": str,
    "beta_start": float,
    "beta_end": float,
    "timesteps": int,
}
"""What a state dict's tensors do not tell, and `--as` does."""
DEVICES = ("cpu", "cuda", "mps")


A_MODEL = (
    "a model is a run or diffusers directory, a file (.safetensors, .pt, .pkl, JAX's checkpoint_N) "
    "or shipped/NAME, see cmtool info"
)


@dataclass(frozen=True)
class Model:
    """A denoiser with where it comes from."""

    denoiser: Denoiser
    recipe: Recipe
    meta: Meta
    source: str


def load(
    model: str | Path, weights: str = "ema", device: str | torch.device | None = None, **facts: Any
) -> Denoiser:
    """Loads a model.

    Args:
        model: A checkpoint or run directory, a `.safetensors` or `.pt` file of this tool,
            `shipped/NAME`, which comes with it, or published weights of OpenAI, NVIDIA, diffusers
            or the JAX code, see docs/weights.md.
        weights: Which weights of a directory: "ema" (the first average), "student" or a stored
            name.
        device: Where to put it; None is the best device of this machine.
        facts: What a file does not tell, see `FACTS`: preset (the name of a published file),
            image_size, head_channels, precond ("edm" or "consistency"), sigma_min, sigma_max, ...

    Returns:
        The denoiser, float32, in evaluation mode. Call it as `denoiser(x, t, label=None)`: x (B, C,
        H, W) is images in [-1, 1] plus noise of standard deviation t.

    Raises:
        CheckpointError: There is no model there, or it is damaged.
    """
    return open_model(model, weights=weights, facts=facts).denoiser.to(pick_device(device))


def open_model(
    path: str | Path,
    *,
    weights: str = "ema",
    facts: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    say: Say = silent,
) -> Model:
    """Opens a model on the CPU.

    Args:
        path: See `load`.
        weights: See `load`.
        facts: See `load`.
        image_size: Size to assume, in pixels, where neither the file nor the facts tell it.
        say: Is told every assumption.

    Raises:
        CheckpointError: See `load`.
    """
    path = Path(path)
    if shipped.is_name(path.as_posix()):
        own = shipped.path(path.as_posix())
        return replace(open_model(own, weights=weights, facts=facts), source=path.as_posix())
    facts = _checked(facts or {})
    named = hub.is_name(path.as_posix())
    if named or (path.is_dir() and diffusers.is_diffusers(path)):
        if weights != "ema":
            raise CheckpointError(f"'{path}' has one set of weights", "drop --weights")
        folder = hub.fetch(path.as_posix()) if named else path
        name = path.as_posix() if named else path.resolve().name
        return _from_published(diffusers.read(folder, name, facts, say), path)
    if path.is_dir():
        _refuse(facts, path)
        found = Checkpoint.open(path)
        return Model(found.denoiser(weights), found.recipe, found.meta, str(found.path))
    if not path.is_file():
        bare = [shipped.PREFIX + name for name in shipped.names() if path.parent == Path()]
        raise CheckpointError(f"there is no model '{path}'{did_you_mean(str(path), bare)}", A_MODEL)
    if (path.parent / "meta.json").is_file():
        raise CheckpointError(
            f"'{path}' is a part of the checkpoint '{path.parent}'", "give the folder instead"
        )
    if weights != "ema":
        raise CheckpointError(
            f"'{path}' is one file with one set of weights, it has no '{weights}'",
            "drop --weights",
        )
    with path.open("rb") as file:
        start = file.read(16)
    plain = is_safetensors(start)  # Asked first: its length may begin with any byte.
    if not plain and jax.is_jax(start):
        return _from_published(jax.read(path, facts, say), path)
    pickled = not plain and (start[:1] == b"\x80" or _is_torch_zip(path))
    held = torch_file.open_file(path) if pickled else None
    if held is not None and nvidia.is_nvidia(held):
        return _from_published(nvidia.read(held, facts, say), path)
    config, state = _weights(path, held)
    if config is not None:
        _refuse(facts, path)
        meta, recipe = checkpoint.parse_config(config, str(path))
        return Model(checkpoint.restore(recipe, meta, state, str(path)), recipe, meta, str(path))
    if openai.is_openai(state):
        return _from_published(openai.read(path, state, facts, say, image_size), path)
    some = ", ".join(map(foreign_name, sorted(state)[:3]))
    raise CheckpointError(
        f"'{path}' holds weights of an unknown layout ({len(state)} tensors: {some}, ...)",
        "known are this tool's files, OpenAI's, NVIDIA's and JAX ones, and diffusers directories",
    )


def knows_crop(path: Path) -> bool:
    """Whether a model tells how its images were cut: a run, or a single file of this tool.

    Raises:
        CheckpointError: The file is damaged.
    """
    if path.suffix == ".pt" and path.is_file() and _is_torch_zip(path):
        content = torch_file.open_file(path).content
        return isinstance(content, dict) and checkpoint.HEADER in content
    named = shipped.is_name(path.as_posix())
    return named or path.is_dir() or path.suffix == ".safetensors"


def _from_published(found: Published, path: Path) -> Model:
    recipe = Recipe(
        network=found.network,
        data=DataSettings(label_dropout=found.label_dropout),
        schedule=found.schedule,
        denoiser=found.denoiser,
        solver=Heun(),
        loss=CD() if found.kind == "consistency" else DSM(),
    )
    meta = Meta(
        found.kind, found.image_shape, found.classes, times=found.times, origin=found.origin
    )
    restored = checkpoint.restore(recipe, meta, found.state, str(path))
    return Model(restored, recipe, meta, str(path))


def parse_facts(pairs: list[str]) -> dict[str, Any]:
    """`--as KEY=VALUE` and `--as PRESET` options to facts.

    Raises:
        CheckpointError: An unknown preset, an unknown key or a value of the wrong type.
    """
    facts: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals and key.strip() in FACTS:
            raise CheckpointError(f"--as '{pair}' is not KEY=VALUE", f"--as {key.strip()}=VALUE")
        facts[key.strip() if equals else "preset"] = (value if equals else key).strip()
    return _checked(facts)


def pick_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or the best one here.

    Raises:
        DeviceError: This machine has no such device.
    """
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = str(device).partition(":")[0]
    if kind not in DEVICES:
        raise DeviceError(f"unknown device '{device}'", "--device cpu, cuda or mps")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise DeviceError(f"no device '{device}' here: {reason}", "--device cpu") from None
    return chosen


def _checked(facts: Mapping[str, Any]) -> dict[str, Any]:
    checked = {}
    for key, value in facts.items():
        if key not in FACTS:
            guess = did_you_mean(key, FACTS)
            raise CheckpointError(f"--as {key}: unknown key{guess}", f"keys: {', '.join(FACTS)}")
        try:
            checked[key] = FACTS[key](value)
            if isinstance(value, bool) or (FACTS[key] is int and checked[key] != float(value)):
                raise ValueError(key)
        except (TypeError, ValueError, OverflowError):
            wanted = FACTS[key].__name__
            raise CheckpointError(
                f"--as {key}: expected {wanted}, got '{value}'", f"--as {key}=NUMBER"
            ) from None
        if isinstance(checked[key], int | float) and not 0 < checked[key] < math.inf:
            raise CheckpointError(
                f"--as {key}: needs 0 < {key} < inf, got {checked[key]}", f"--as {key}=NUMBER"
            )
    if "preset" in checked and checked["preset"] not in PRESETS:
        guess = did_you_mean(checked["preset"], [*PRESETS, *FACTS])
        raise CheckpointError(
            f"--as '{checked['preset']}' is neither KEY=VALUE nor a published file's name{guess}",
            f"keys: {', '.join(FACTS)}; names: {', '.join(PRESETS)}",
        )
    if checked.get("precond", "edm") not in ("edm", "consistency"):
        raise CheckpointError(
            f"--as precond: expected 'edm' or 'consistency', got '{checked['precond']}'",
            "--as precond=edm for a diffusion model",
        )
    return checked


def _refuse(facts: Mapping[str, Any], path: Path) -> None:
    if facts:
        raise CheckpointError(
            f"'{path}' knows its own configuration; --as {', '.join(facts)} would contradict it",
            "drop --as",
        )


def _weights(path: Path, held: TorchFile | None) -> tuple[str | None, dict[str, Tensor]]:
    """The configuration, if the file is ours, and the tensors."""
    if held is not None:
        content = held.content
        config = content.get(checkpoint.HEADER) if isinstance(content, dict) else None
        state = held.state(content if config is None else content.get("weights"))
        if state is None or not isinstance(config, str | None):
            raise CheckpointError(
                f"'{path}' does not hold weights by name", "save the model's state_dict() alone"
            )
        return config, state
    with path.open("rb") as file:
        magic = file.read(16)
    if is_safetensors(magic):
        return checkpoint.read_header(path), read_tensors(path)
    raise CheckpointError(
        f"'{path}' is not a model file: it seems to be {what_it_seems(magic)}", A_MODEL
    )


def _is_torch_zip(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def what_it_seems(magic: bytes) -> str:
    """A guess in words from a file's first bytes."""
    if not magic:
        return "an empty file"
    known = {
        b"PK\x03\x04": "a zip archive of something else, or cut short (a copy that failed?)",
        b"\x89PNG": "a PNG image",
        b"\xff\xd8\xff": "a JPEG image",
        b"GIF8": "a GIF image",
        b"\x1f\x8b": "a gzip archive",
        b"\x89HDF": "an HDF5 file",
        b"\x93NUMPY": "a numpy array",
        b"<!DO": "a web page (a download that failed?)",
        b"<htm": "a web page (a download that failed?)",
        b"version https": "a Git LFS pointer (run git lfs pull)",
    }
    for start, name in known.items():
        if magic.lower().startswith(start.lower()):
            return name
    return "text" if magic.isascii() else "something else"
