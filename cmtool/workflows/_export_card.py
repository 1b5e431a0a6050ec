"""The model card beside an export: what the model is, what it was made of, how to use the file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmtool import recipe as recipes
from cmtool.checkpoint import Checkpoint
from cmtool.denoiser import Denoiser
from cmtool.errors import CmtoolError
from cmtool.foreign.openai import PRESETS
from cmtool.formats.base import Format, Source
from cmtool.workflows._export_check import Row
from cmtool.workflows._portable import portable
from cmtool.workflows._sharded import fingerprint

LICENCES = {
    "digits": "CC BY 4.0",
    "mnist": "CC BY-SA 3.0, as commonly stated; by Yann LeCun and Corinna Cortes",
    "cifar10": "none stated by its authors; cite Krizhevsky 2009, Learning Multiple Layers of "
    "Features from Tiny Images",
    "openai": "MIT",
    "nvidia": "CC BY-NC-SA 4.0",
}
"""Of data sets, digits as DIGITS.txt beside it says, and of published models that are known for
sure: openai/consistency_models; NVlabs/edm and NVlabs/edm2."""
UNKNOWN = "not known to cmtool; ask those who made it"

_CARD = """---
library_name: {library}
pipeline_tag: unconditional-image-generation
tags:
- consistency-models
- {name}
---

# {title}

{what}; written and checked by cmtool.

## Use

{usage}

## What it is

| | |
|---|---|
{table}

## Metrics

{known}

## What it was made of

{licences}

The licence of the model follows from these. Recorded of its origin:

```json
{origin}
```

## Check

{count} comparisons with the model passed; the nearest to its limit: {compared},
{case}: {error:.1e} of {tolerance:g} allowed.

```
{sums}
```

## Recipe

```toml
{recipe}
```
"""


def parents(origin: Mapping[str, Any], whose: str = "") -> dict[str, str]:
    """What a model was made of, to its licence: data, teacher, and what the teacher was made of.

    Args:
        origin: As `cmtool.meta.Meta` holds it.
        whose: Put before the names.
    """
    if "licences" in origin:  # An export of an export.
        return {str(k): _now_known(str(k), str(v)) for k, v in dict(origin["licences"]).items()}
    found: dict[str, str] = {}
    data, teacher = origin.get("data"), origin.get("teacher")
    if isinstance(data, Mapping) and "name" in data:
        name = str(data["name"])
        found[f"{whose}data '{name}'"] = LICENCES.get(name, UNKNOWN)
    if "layout" in origin:
        layout, file = str(origin["layout"]).partition(" ")[0], str(origin.get("file"))
        published = layout == "nvidia" or (layout == "openai" and Path(file).stem in PRESETS)
        found[f"{whose}weights '{file}'"] = LICENCES[layout] if published else UNKNOWN
    if isinstance(teacher, str):
        try:
            of_teacher = parents(Checkpoint.open(Path(teacher)).meta.origin, f"{whose}teacher's ")
        except CmtoolError:
            of_teacher = {}
        name = str(portable(teacher))
        stem = Path(name).stem
        own = "MIT" if stem in PRESETS else "that of what it was made of" if of_teacher else UNKNOWN
        found |= {f"{whose}teacher '{name}'": own, **of_teacher}
    return found


def _now_known(what: str, licence: str) -> str:
    """What was not known when a file was written may be known by now."""
    name = what.rpartition("data ")[2].strip("'")
    return LICENCES.get(name, licence) if licence == UNKNOWN else licence


def measured(model: Denoiser, folder: Path) -> list[str]:
    """Figures of these very weights in the reports of `cmtool eval`, as rows of a table.

    Args:
        model: Not rounded.
        folder: Where reports lie.
    """
    weights, found = fingerprint(model)["weights"], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            reference = (content["reference"] or {}).get("name", "")
            for row in content["rows"]:
                if row.get("weights_sha256") == weights:
                    found += [
                        f"| {name} | {figure['value']:.4g} | {row['nfe']} | {row['n']:,} | "
                        f"{reference} | {path.name} |"
                        for name, figure in row["figures"].items()
                    ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # Not a report of images against a reference.
    return found


def card(
    kind: Format,
    name: str,
    source: Source,
    file: str,
    hashes: Mapping[str, str],
    rows: list[Row],
    figures: list[str],
) -> str:
    """The model card, Markdown with the Hub's header.

    Args:
        kind: The format.
        name: Its name.
        source: What was exported.
        file: The target's name.
        hashes: SHA-256 of the files.
        rows: The check's result.
        figures: See `measured`.
    """
    meta = source.model.meta
    worst = max(rows, key=lambda row: row.error / (row.tolerance or 1))
    table = "\n".join(f"| {key} | {value} |" for key, value in _facts(source).items())
    licences = "\n".join(f"- {key}: {value}" for key, value in parents(meta.origin).items())
    head = "| figure | value | NFE | images | against | report |\n|---|---|---|---|---|---|"
    known = "\n".join([head, *figures]) if figures else "`evals/` has no report of these weights."
    if figures and source.dtype != "float32":
        known += f"\n\nMeasured before the weights were rounded to {source.dtype}."
    sums = "\n".join(f"{value}  {key}" for key, value in hashes.items())
    return _CARD.format(
        library="diffusers" if name == "diffusers" else "cmtool",
        name=name,
        title=file.removesuffix(kind.suffix),
        what=kind.title[0].upper() + kind.title[1:],
        usage=kind.usage(source, file),
        table=table,
        known=known,
        licences=licences or "- nothing is recorded",
        origin=json.dumps(portable(meta.origin), indent=1),
        count=len(rows),
        compared=worst.compared,
        case=worst.case,
        error=worst.error,
        tolerance=worst.tolerance,
        sums=sums,
        recipe=recipes.dump(source.model.recipe).strip(),
    )


def _facts(source: Source) -> dict[str, str]:
    """What a model is."""
    model, meta = source.denoiser, source.model.meta
    channels, height, width = model.image_shape
    low, high = source.levels
    what = "in 1 or more steps" if model.kind == "consistency" else "by a solver in many steps"
    classes = f"{model.num_classes}: {', '.join(model.classes[:20])}" if model.classes else "none"
    levels = [f"{use}: {', '.join(f'{t:g}' for t in times)}" for use, times in model.times.items()]
    return {
        "kind": f"{model.kind} model, draws images {what}",
        "images": f"{width}x{height}, {channels} channel(s), numbers in [-1, 1]",
        "classes": classes,
        "noise levels": f"{low:g} .. {high:g}",
        "stored levels": "; ".join(levels) or "none",
        "network": str(source.model.recipe.network),
        "parameters": f"{sum(p.numel() for p in model.network.parameters()):,}",
        "weights": f"{', '.join(meta.weights) or 'as in the file'}, stored as {source.dtype}",
        "preconditioning": str(model.precond),
        "schedule": str(model.schedule),
        "trained": f"{meta.step:,} steps, {meta.images:,} images",
    }
