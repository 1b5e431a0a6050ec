"""`cmtool export`: a model leaves as a file of another kind, which is opened again and compared."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cmtool import registry, shipped
from cmtool.checkpoint import Checkpoint
from cmtool.denoiser import Denoiser
from cmtool.errors import CheckpointError, ExportError, RecipeError, Say, did_you_mean, silent
from cmtool.foreign import diffusers
from cmtool.formats.base import DTYPES, Format, Source
from cmtool.workflows._default import default_model
from cmtool.workflows._draw import parse_times, plan_for
from cmtool.workflows._export_card import card, measured, parents
from cmtool.workflows._export_check import Row, as_json, compare, rounded, rounding, table
from cmtool.workflows._export_place import check_place, companions, draft, keep, place
from cmtool.workflows._export_push import check_push, push
from cmtool.workflows._portable import portable, without_folders
from cmtool.workflows.load import Model, open_model


@dataclass(frozen=True)
class Request:
    """What is asked.

    Args:
        format: Name of the format.
        model: A model; None as `default_model` has it.
        weights: Which weights of a directory.
        facts: What the model's file does not tell.
        dtype: Type that the weights are stored in.
        steps: Steps of a sampler in the file; with no `times` either, the denoiser alone.
        times: Noise levels of that sampler instead.
        out: File or folder; None is a name under `exports/`.
        overwrite: Replace an earlier export.
        push: OWNER/NAME on the Hub to send it to.
    """

    format: str
    model: Path | None = None
    weights: str = "ema"
    facts: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    steps: int | None = None
    times: str | None = None
    out: Path | None = None
    overwrite: bool = False
    push: str | None = None


@dataclass(frozen=True)
class Report:
    """What was done.

    Args:
        table: The comparisons, a line for each.
        paths: What was written; the export itself last.
        address: Where on the Hub it is.
    """

    table: str
    paths: tuple[Path, ...]
    address: str | None = None


def export(request: Request, say: Say = silent) -> Report:
    """Writes a model in another format, opens that and compares it, then puts it in its place.

    Raises:
        CheckpointError: There is no such model, the format cannot hold it (the text names the layer
            or setting), or it cannot be written.
        ExportError: What was written computes something else; it is kept as NAME.failed.
        RecipeError: An option does not make sense.
    """
    kind = _format(request)
    check_push(request.push)
    path = request.model or _default(request.format, say)
    model = open_model(path, weights=request.weights, facts=request.facts, say=say)
    target = request.out or Path("exports") / _name(path, kind, request)
    if kind.suffix and target.suffix != kind.suffix:
        raise RecipeError(
            f"--out '{target}': a file of format '{request.format}' ends in {kind.suffix}",
            f"--out {target}{kind.suffix}",
        )
    check_place(target, folder=not kind.suffix, overwrite=request.overwrite, model=path)
    model = replace(
        model,
        meta=_described(model, path, request.weights),
        recipe=without_folders(model.recipe),
    )
    which = ", ".join(model.meta.weights) or "of the file"
    say(f"{model.denoiser.kind} model {model.source}, weights {which}")
    before = copy.deepcopy(model.denoiser)
    source = Source(model, request.dtype, _times(request, model.denoiser))
    kind.check(source)
    model.denoiser.network.load_state_dict(rounded(before, request.dtype))
    with draft(target) as folder:
        rows = _write(kind, request, source, before, folder / target.name)
        if wrong := [row for row in rows if not row.passed]:
            kept = keep(folder, target)
            raise ExportError(
                f"'{target}' was not made: {len(wrong)} of {len(rows)} comparisons with the model "
                f"failed\n{table(wrong)}",
                f"what was written is kept in '{kept}' to be looked at; it is not the model",
            )
        paths = place(folder, target, overwrite=request.overwrite)
    address = None if request.push is None else push(request.push, target, paths)
    return Report(table(rows), tuple(paths), address)


def _default(name: str, say: Say) -> Path:
    try:
        return default_model(say)
    except CheckpointError as error:
        raise CheckpointError(error.message, f"cmtool export {name} MODEL") from None


def _write(
    kind: Format, request: Request, source: Source, before: Denoiser, path: Path
) -> list[Row]:
    """Writes the export, its report and, if it passed, its card into the draft."""
    kind.write(source, path)
    pairs = kind.pairs(source, path)
    rows = compare(kind, source, pairs)
    if source.dtype != "float32":
        rows += compare(kind, source, [rounding(before, source)])
    files = sorted(p for p in path.parent.rglob("*") if p.is_file())
    hashes = {
        str(p.relative_to(path if not kind.suffix else path.parent)): _sha256(p) for p in files
    }
    card_file, report_file = companions(path, folder=not kind.suffix)
    passed = all(row.passed for row in rows)
    content = {
        "format": request.format,
        "dtype": source.dtype,
        "times": source.times,
        "passed": passed,
        "sha256": hashes,
        "origin": portable(source.model.meta.origin),
        "versions": {name: version(name) for name in ("cmtool", "torch", *kind.needs)},
        "comparisons": as_json(rows),
    }
    report_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for file in files:  # safetensors gives its files to their owner alone.
        file.chmod(report_file.stat().st_mode)
    if passed:
        text = card(
            kind, request.format, source, path.name, hashes, rows, measured(before, Path("evals"))
        )
        card_file.write_text(text, encoding="utf-8")
    return rows


def _format(request: Request) -> Format:
    """The format, with what was asked of it checked."""
    names = registry.names("formats")
    if request.dtype not in DTYPES:
        guess = did_you_mean(request.dtype, DTYPES)
        raise RecipeError(f"unknown dtype '{request.dtype}'{guess}", f"--dtype {', '.join(DTYPES)}")
    kind: Format = registry.load("formats", request.format)()
    if request.dtype not in kind.dtypes:
        raise RecipeError(
            f"format '{request.format}' has no weights in {request.dtype}",
            f"--dtype {' or '.join(kind.dtypes)}",
        )
    if not kind.sampler and (request.steps is not None or request.times is not None):
        able = [name for name in names if registry.load("formats", name).sampler]
        hint = f"--steps and --times are for {', '.join(able)}" if able else "drop it"
        raise RecipeError(f"format '{request.format}' holds no sampler, only the model", hint)
    if missing := [name for name in kind.needs if find_spec(name) is None]:
        raise RecipeError(
            f"format '{request.format}' needs {', '.join(missing)}, which is not installed",
            f"pip install 'cmtool[{request.format}]'",
        )
    return kind


def _times(request: Request, model: Denoiser) -> tuple[float, ...]:
    """The noise levels of the sampler that is asked for, as `cmtool sample` would choose them."""
    if request.steps is None and request.times is None:
        return ()
    typed = request.times and parse_times(request.times, model.precond.sigma_data)
    levels: list[float] = plan_for(model, request.steps, typed or None).times.tolist()
    return tuple(levels)


def _name(path: Path, kind: Format, request: Request) -> str:
    """digits-cd.safetensors, digits-cd-float16.onnx, digits-cd-diffusers."""
    where = path.resolve() if path.is_dir() else path
    if where.is_dir() and where.name.startswith("step-"):
        where = where.parent
    parts = [where.name if path.is_dir() or not path.is_file() else path.stem]
    if kind.suffix != f".{request.format}":
        parts.append(request.format)
    if request.dtype != "float32":
        parts.append(request.dtype)
    if request.steps is not None:
        parts.append(f"{request.steps}-steps")
    if request.times is not None:
        parts.append(request.times.replace(",", "-").replace(":", ""))
    return "-".join(parts) + kind.suffix


def _described(model: Model, path: Path, weights: str) -> Any:
    """The model's description with what was exported, without the folders of this machine."""
    origin = {**portable(model.meta.origin), "licences": parents(model.meta.origin)}
    exported = {"model": portable(str(Path(model.source).resolve()))}
    kept: tuple[str, ...] = ()
    if path.is_dir() and not diffusers.is_diffusers(path):
        chosen = Checkpoint.open(path).choose(weights)
        exported |= {"weights": chosen, "sha256": model.meta.sha256.get(chosen, "")}
        kept = (chosen,)
    elif shipped.is_name(path.as_posix()) or path.is_file():
        named = shipped.is_name(path.as_posix())
        exported["sha256"] = _sha256(shipped.path(path.as_posix()) if named else path)
        kept = model.meta.weights
        if "exported" in origin:
            exported["of"] = origin["exported"]
    return replace(model.meta, origin=origin | {"exported": exported}, weights=kept, sha256={})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
