"""`cmtool info`: what a model, a data set or this machine is."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmtool import checkpoint, registry, shipped
from cmtool.data import names as data_names
from cmtool.data.catalog import open_data
from cmtool.data.survey import Survey, survey
from cmtool.denoiser import Kind
from cmtool.errors import DataError, did_you_mean
from cmtool.foreign import diffusers, hub
from cmtool.workflows._export_card import parents
from cmtool.workflows._overview import overview as overview
from cmtool.workflows._overview import run_line
from cmtool.workflows._portable import in_words
from cmtool.workflows._run_facts import facts_of, is_run
from cmtool.workflows.load import open_model


def describe(what: str, facts: Mapping[str, Any], data_dir: Path | None = None) -> dict[str, str]:
    """Facts of a model or a data set by name.

    Args:
        what: Its path or name.
        facts: What a model's file does not tell.
        data_dir: Where data sets lie.

    Raises:
        CmtoolError: It is neither, or damaged.
    """
    path = Path(what)
    saved = path.is_dir() and (checkpoint.latest(path) or (path / "meta.json").is_file())
    if is_run(path) and not saved:
        report = f"cmtool info {shlex.quote(what)} --html report.html"
        return {"run": run_line(facts_of(path)), "checkpoint": "none yet", "its curves": report}
    is_model = saved or (path.is_dir() and diffusers.is_diffusers(path))
    is_data = what in data_names.names() or (path.is_dir() and not is_model)
    if is_data or path.suffix == ".zip":
        return _data(what, data_dir)
    if path.exists() or shipped.is_name(what) or hub.is_name(what):
        return _model(path, facts)
    raise DataError(
        f"'{what}' is neither a model nor a data set{did_you_mean(what, data_names.names())}",
        f"the path of either, or a data set's name: {', '.join(data_names.names())}",
    )


def _model(path: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    told: list[str] = []
    model = open_model(path, facts=facts, say=told.append)
    denoiser, meta = model.denoiser, model.meta
    channels, height, width = denoiser.image_shape
    parameters = sum(p.numel() for p in denoiser.network.parameters())
    low, high = denoiser.schedule.t_min, denoiser.schedule.t_max
    described = {
        "model": model.source,
        "layout": _layout(path, meta.origin),
        "kind": denoiser.kind,
        "network": str(model.recipe.network),
        "parameters": f"{parameters:,}",
        "images": f"{width}x{height}, {channels} channel(s), in [-1, 1]",
        "classes": _classes(denoiser.classes),
        "preconditioning": str(denoiser.precond),
        "schedule": str(denoiser.schedule),
        "noise range": f"{low:g} .. {high:g}",
    }
    for use, levels in denoiser.times.items():
        what = use if isinstance(use, str) else f"{use} steps"
        described[f"{what} at"] = ", ".join(f"{level:g}" for level in levels)
    if denoiser.guidable:
        low, high, as_input = denoiser.guidable
        how = "as an input" if as_input else "classifier-free, two evaluations a step"
        described["guidance"] = f"{low:g} .. {high:g}, {how}"
    if denoiser.grid:
        described["made for"] = f"{len(denoiser.grid) - 1} Euler steps between its own noise levels"
    if meta.step:
        trained = f"{meta.step:,} steps, {meta.images:,} images, loss {model.recipe.loss}"
        described |= {"trained": trained, "weights": ", ".join(meta.weights)}
    origin = dict(meta.origin)
    if "licences" in origin:
        origin["licences"] = parents(origin)
    described |= {f"origin: {key}": in_words(value) for key, value in origin.items()}
    for line in told:
        what = "assumed" if "assuming" in line else "note"
        described[f"{what} {1 + sum(key.startswith(what) for key in described)}"] = line
    return described | _uses(path, facts, denoiser.kind)


def _layout(path: Path, origin: Mapping[str, Any]) -> str:
    """What wrote the file, in words."""
    kind, _, module = str(origin.get("layout", "")).partition(" ")
    if not kind:
        file = "single file of cmtool"
        file += ", which comes with it" if shipped.is_name(path.as_posix()) else ""
        return "checkpoint directory of cmtool" if path.is_dir() else file
    return {
        "openai": "state dict of OpenAI's consistency models, PyTorch",
        "nvidia": f"pickle of NVIDIA's code ({module}), of which nothing was run",
        "diffusers": "model directory of diffusers",
        "jax": "flax msgpack of the JAX code of the consistency models",
    }.get(kind, kind)


def _classes(names: tuple[str, ...]) -> str:
    if len(names) <= 12:
        return ", ".join(names) or "none"
    return f"{len(names):,}: {', '.join(names[:12])} ..."


def _uses(path: Path, facts: Mapping[str, Any], kind: Kind) -> dict[str, str]:
    """What a model is good for, and the commands for that."""
    name = shlex.quote(str(path))
    words = [f"--as {shlex.quote(f'{key}={value}')}" for key, value in facts.items()]
    known = "".join(f" {word}" for word in words)
    draw = f"cmtool sample {name}{known} --n 16 --out grid.png"
    if kind == "diffusion":
        return {
            "use": "teacher, start of a training (--init), sampling in many steps",
            "to distil it": f"cmtool distill --teacher {name}{known} --data NAME",
            "to draw": draw,
        }
    edit = ["editing"] if registry.names("editors") else []
    uses = ["sampling in 1 or more steps", *edit, "start of a training (--init)"]
    return {"use": ", ".join(uses), "to draw": draw}


def _data(what: str, data_dir: Path | None) -> dict[str, str]:
    if what not in data_names.names() and not (found := survey(what)).ready:
        return _unprepared(what, found)
    notes: list[str] = []
    data = open_data(what, data_dir=data_dir, say=notes.append)
    channels, height, width = data.image_shape
    described = {
        "data": data.name,
        "images": f"{len(data):,} of {width}x{height}, {channels} channel(s)",
        "classes": ", ".join(data.classes[:12]) + (" ..." if data.num_classes > 12 else "")
        or "none",
        "held in memory": "yes" if data.in_memory else "no, decoded on demand",
        "mirroring": "may help (data.flip)" if data.flip_ok else "would spoil the images",
    }
    described |= {k: str(v) for k, v in data.facts.items() if k not in described}
    return described | {f"note {i}": line for i, line in enumerate(notes, 1)}


def _unprepared(what: str, found: Survey) -> dict[str, str]:
    """Images that need a decision first, and the command that shows what comes of it."""
    widths, heights = [w for w, _ in found.sizes], [h for _, h in found.sizes]
    described = {"data": what, "images": f"{sum(found.sizes.values()):,}"}
    if len(found.sizes) > 1:
        spread = f"{min(widths)} .. {max(widths)} wide, {min(heights)} .. {max(heights)} high"
        described["sizes"] = f"{spread}, {len(found.sizes)} of them"
    elif found.sizes:
        described["sizes"] = f"all {widths[0]}x{heights[0]}"
    counts = [f"{name} ({count:,})" for name, count in found.classes.items()]
    described |= {
        "channels": "1, grey" if found.grey else "3",
        "classes": ", ".join(counts[:12]) + (" ..." if len(counts) > 12 else "") or "none",
        "files that are no images": f"{found.ignored:,}",
        "files that cannot be read": f"{len(found.broken):,}",
    }
    described |= {f"broken {i}": text for i, text in enumerate(found.broken[:4], 1)}
    skip = " --set data.skip_broken=true" if found.broken else ""
    options = f"--set data.image_size=32{skip} --dry-run"
    return described | {"to train": f"cmtool train --data {shlex.quote(what)} {options}"}
