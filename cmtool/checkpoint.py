"""Models on disk: a directory that a person can read, or one file that knows its own configuration.

    runs/cifar10-cd/
      recipe.toml  log.jsonl  samples/  latest
      step-00010000/
        meta.json  recipe.toml  student.safetensors  ema-0.9999.safetensors  resume/state.pt

Weights are float32 and named by the network's own keys. Nothing here is a pickle that could run
code: `resume/state.pt` holds plain tensors and is read with `weights_only=True`.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from cmtool import recipe as recipes
from cmtool.denoiser import HEAD, Denoiser, Guidable, Use
from cmtool.errors import CheckpointError, did_you_mean
from cmtool.files import whole
from cmtool.meta import Meta as Meta
from cmtool.networks.base import shapes_only
from cmtool.preconditioner import preconditioner
from cmtool.recipe import Recipe
from cmtool.tensor_file import read_tensors, read_texts

HEADER = "cmtool"
"""Key of the configuration in a single file's metadata."""


@dataclass(frozen=True)
class Checkpoint:
    """One `step-...` directory, opened without reading weights."""

    path: Path
    recipe: Recipe
    meta: Meta

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Opens a checkpoint, or the latest one of a run directory.

        Raises:
            CheckpointError: There is none, or it is damaged.
        """
        found = path if (path / "meta.json").is_file() else latest(path)
        if found is None or not (found / "meta.json").is_file():
            raise CheckpointError(
                f"no checkpoint in '{path}'", "a run's folder; cmtool info lists those in runs/"
            )
        meta = Meta.parse(_read_text(found / "meta.json"), str(found / "meta.json"))
        recipe_file = found / "recipe.toml"
        return cls(found, recipes.parse(_read_text(recipe_file), str(recipe_file)), meta)

    def choose(self, weights: str) -> str:
        """The name of stored weights; "ema" is the only or first average.

        Raises:
            CheckpointError: There are none of that name.
        """
        averages = [name for name in self.meta.weights if name.startswith("ema-")]
        if weights == "ema" and averages:
            return averages[0]
        if weights not in self.meta.weights:
            has = ", ".join(f"'{name}'" for name in self.meta.weights)
            guess = did_you_mean(weights, self.meta.weights)
            raise CheckpointError(f"{self.path} has no weights '{weights}'{guess}", f"it has {has}")
        return weights

    def weights(self, name: str) -> dict[str, Tensor]:
        """Reads weights by their stored name, after checking their hash."""
        file = self.path / f"{name}.safetensors"
        if not file.is_file():
            raise CheckpointError(
                f"{self.path} has no file {file.name}", "use an earlier checkpoint"
            )
        if _sha256(file) != self.meta.sha256.get(name):
            raise CheckpointError(
                f"{file} is damaged: its hash is not the one in meta.json",
                "use an earlier step-... folder of the same run",
            )
        return read_tensors(file)

    def denoiser(self, weights: str = "ema") -> Denoiser:
        """The model, on the CPU, in evaluation mode."""
        chosen = self.choose(weights)
        return restore(self.recipe, self.meta, self.weights(chosen), str(self.path / chosen))

    def resume_state(self, device: torch.device) -> dict[str, Any]:
        """Optimizer and gradient scaler."""
        file = self.path / "resume" / "state.pt"
        if not file.is_file():
            raise CheckpointError(
                f"{self.path} has no resume/{file.name}; it cannot be resumed",
                f"start a new run from its weights: --init {self.path}",
            )
        try:
            state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        except Exception:  # torch raises many kinds for damaged files
            raise CheckpointError(
                f"{file} is damaged; the run cannot be resumed from it",
                f"start a new run from its weights: --init {self.path}",
            ) from None
        return state


def build(recipe: Recipe, meta: Meta) -> Denoiser:
    """A model with fresh weights.

    Raises:
        CheckpointError: The network does not fit such images, or the schedule not the stored noise
            levels.
    """
    network = _network(recipe, meta)
    for use, levels in meta.times.items():
        _check_levels(recipe, levels, f"the noise levels for '{use}',")
    precond = preconditioner(recipe.denoiser)
    return Denoiser(
        network,
        precond,
        recipe.schedule,
        meta.kind,
        meta.image_shape,
        meta.classes,
        meta.grid,
        _guidable(recipe, meta),
        null_class=_null_class(recipe, meta),
        times=_times(recipe) | meta.times,
    )


def _network(recipe: Recipe, meta: Meta) -> nn.Module:
    channels, size, _ = meta.image_shape
    if recipe.network is None:
        raise CheckpointError("the recipe names no network", "--set network.name=tiny")
    try:
        return recipe.network.build(size, channels, len(meta.classes))
    except ValueError as error:
        hint = "--set network.KEY=VALUE, or another --set data.image_size"
        raise CheckpointError(f"network: {error}", hint) from None


def _times(recipe: Recipe) -> dict[Use, tuple[float, ...]]:
    """The recipe's noise levels to sample at, by their number.

    Raises:
        CheckpointError: Such a model cannot be sampled at them.
    """
    times = recipe.sampling.times
    _check_levels(recipe, times, "sampling.times", "--set sampling.times=[]")
    if times and recipe.loss.kind == "diffusion":
        raise CheckpointError(
            "sampling.times is for consistency models, and this is a diffusion model",
            "--set sampling.times=[]",
        )
    return {len(times): times} if times else {}


def _check_levels(
    recipe: Recipe, times: Sequence[float], what: str, hint: str | None = None
) -> None:
    low, high = recipe.schedule.noise_range
    # A range that went through an angle and back may differ in the last digit.
    if times and not low * (1 - 1e-9) <= times[-1] <= times[0] <= high * (1 + 1e-9):
        leave = f"leave the schedule's noise levels {low:g} .. {high:g}"
        raise CheckpointError(f"{what} {list(times)} {leave}", hint)


def _guidable(recipe: Recipe, meta: Meta) -> Guidable | None:
    if not meta.classes:
        return None
    if isinstance(recipe.teacher.guidance, tuple):
        return Guidable(*recipe.teacher.guidance, as_input=True)
    # A consistency model's answers are ends of trajectories, which do not add up.
    free = meta.kind == "diffusion" and _null_class(recipe, meta)
    return Guidable(0.0, math.inf, as_input=False) if free else None


def _null_class(recipe: Recipe, meta: Meta) -> bool:
    return bool(meta.classes) and recipe.data.label_dropout > 0


def restore(recipe: Recipe, meta: Meta, weights: Mapping[str, Tensor], where: str) -> Denoiser:
    """A model with given weights, float32, in evaluation mode.

    Raises:
        CheckpointError: The weights are not this network's; names those that are missing,
            unexpected or of another shape.
    """
    weights = {k: v for k, v in weights.items() if not k.startswith(HEAD)}
    expected = _needed(recipe, meta, len(weights))
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    shapes = sorted(
        k for k in expected.keys() & weights.keys() if expected[k].shape != weights[k].shape
    )
    if missing or unexpected or shapes:
        names = ", ".join([*missing, *unexpected, *shapes][:8])
        raise CheckpointError(
            f"{len(missing)} missing, {len(unexpected)} unexpected and {len(shapes)} misshapen "
            f"weights in {where}: {names}",
            "fetch or export it again",
        )
    if odd := sorted(k for k, v in weights.items() if not v.is_floating_point()):
        raise CheckpointError(f"weights in {where} that are no floating point: {odd[0]}")
    model = build(recipe, meta)
    model.network.load_state_dict({k: v.to(expected[k].dtype) for k, v in weights.items()})
    return model.eval().requires_grad_(False)


def _needed(recipe: Recipe, meta: Meta, weights: int) -> dict[str, Tensor]:
    """Names and shapes of what a network needs, without memory for it: a file may ask for
    anything."""
    blocks = getattr(recipe.network, "blocks", 0)
    if blocks > weights:
        raise CheckpointError(f"{weights:,} weights cannot be those of {blocks:,} blocks a level")
    try:
        with shapes_only():
            return _network(recipe, meta).state_dict()
    except (RuntimeError, OverflowError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"the recipe's network cannot be made: {reason}") from None


def save(
    out: Path,
    meta: Meta,
    recipe: Recipe,
    weights: Mapping[str, Mapping[str, Tensor]],
    resume: Mapping[str, Any],
    *,
    keep_last: int,
) -> Path:
    """Writes a checkpoint so that a kill at any moment leaves the previous one usable.

    Args:
        out: The run directory.
        meta: What the model is; names and hashes of the weights are filled in here.
        recipe: The resolved recipe.
        weights: Name to state dict.
        resume: What only training needs; plain tensors and numbers.
        keep_last: How many checkpoints stay, 1 or more.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: The disk is full or not writable.
    """
    final = out / f"step-{meta.step:08d}"
    work = out / f"{final.name}.tmp"
    try:
        shutil.rmtree(work, ignore_errors=True)
        (work / "resume").mkdir(parents=True)
        hashes = {}
        for name, state in weights.items():
            plain = {k: v.detach().cpu().contiguous() for k, v in state.items()}
            save_file(plain, work / f"{name}.safetensors")
            hashes[name] = _sha256(work / f"{name}.safetensors")
        torch.save(dict(resume), work / "resume" / "state.pt")
        described = asdict(meta) | {"weights": tuple(weights), "sha256": hashes}
        (work / "meta.json").write_text(json.dumps(described, indent=2))
        (work / "recipe.toml").write_text(recipes.dump(recipe))
        shutil.rmtree(final, ignore_errors=True)
        work.rename(final)
        with whole(out / "latest") as draft:
            draft.write_text(final.name)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise CheckpointError(
            f"cannot write the checkpoint {final}: {error}", "free some space"
        ) from error
    for old in sorted(out.glob("step-????????"))[:-keep_last]:
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def latest(out: Path) -> Path | None:
    """The newest complete checkpoint of a run directory, or None."""
    file = out / "latest"
    if file.is_file() and (out / file.read_text().strip() / "meta.json").is_file():
        return out / file.read_text().strip()
    complete = [p for p in sorted(out.glob("step-????????")) if (p / "meta.json").is_file()]
    return complete[-1] if complete else None


def write_file(path: Path, meta: Meta, recipe: Recipe, weights: Mapping[str, Tensor]) -> None:
    """Writes one file, `.safetensors` or `.pt`, that `read_file` reads with no other argument."""
    config = json.dumps(asdict(meta) | {"recipe": recipes.dump(recipe)})
    work = path.with_name(path.name + ".tmp")
    if path.suffix == ".pt":
        torch.save({HEADER: config, "weights": dict(weights)}, work)
    else:
        save_file({k: v.contiguous() for k, v in weights.items()}, work, metadata={HEADER: config})
    os.replace(work, path)


def store_times(path: Path, times: Mapping[Use, Sequence[float]]) -> Path:
    """Writes noise levels to sample at into a model, beside those it has; no weight is touched.

    Args:
        path: A checkpoint directory, a run directory (its latest checkpoint) or a single file.
        times: Number of steps to that many decreasing noise levels; or an editor's name to its own.

    Returns:
        The directory or file that has changed.

    Raises:
        CheckpointError: There is no model of this tool, or it cannot be written.
    """
    more = {steps: tuple(map(float, levels)) for steps, levels in times.items()}
    if path.is_dir():
        found = Checkpoint.open(path)
        meta, recipe, target = found.meta, found.recipe, found.path
    else:
        config, state = _own_file(path)
        meta, recipe = parse_config(config, str(path))
        target = path
    stored = meta.times | more
    meta = replace(meta, times={use: stored[use] for use in sorted(stored, key="{:>4}".format)})
    Meta.parse(json.dumps(asdict(meta)), f"the new description of {target}")
    for use, levels in more.items():
        _check_levels(recipe, levels, f"the noise levels for '{use}',")
    try:
        if path.is_dir():
            with whole(target / "meta.json") as draft:
                draft.write_text(json.dumps(asdict(meta), indent=2))
        else:
            write_file(path, meta, recipe, state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {target}: {error}", "free some space") from None
    return target


def _own_file(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The configuration and the weights of a single file that this tool wrote."""
    config, state = None, {}
    if path.suffix == ".safetensors" and path.is_file():
        config, state = read_header(path), read_tensors(path)
    elif path.suffix == ".pt" and path.is_file():
        with suppress(Exception):  # torch raises many kinds for damaged files
            content = torch.load(path, map_location="cpu", weights_only=True)
            config, state = content.get(HEADER), content["weights"]
    if config is None:
        raise CheckpointError(
            f"'{path}' is no model of this tool and cannot hold noise levels",
            "pass them each time: --times 80,0.8",
        )
    return config, state


def read_header(path: Path) -> str | None:
    """The configuration in a safetensors file, or None if another program wrote it.

    Raises:
        CheckpointError: The file is damaged.
    """
    return read_texts(path).get(HEADER)


def parse_config(config: str, where: str) -> tuple[Meta, Recipe]:
    """Takes apart a single file's configuration."""
    try:
        fields = json.loads(config)
        text = fields.pop("recipe")
        if not isinstance(text, str):
            raise TypeError("its recipe is no text")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        problem = f"the configuration in {where} is damaged: {error}"
        raise CheckpointError(problem, "fetch or export it again") from None
    return Meta.parse(json.dumps(fields), where), recipes.parse(text, where)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CheckpointError(
            f"cannot read {path}: {str(reason).lower()}",
            "use an earlier checkpoint, or fetch it again",
        ) from None
