"""The reports of `cmtool eval` that tell of a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmtool.workflows._portable import portable
from cmtool.workflows._report import cell

MOST = 40
FOLDER = "evals"


@dataclass(frozen=True)
class Measured:
    """A table out of a report.

    Args:
        title: The report's file and what was measured how.
        head: Of the columns.
        rows: As many cells each.
        notes: The report's own, and whether it is older than the model.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str]


def measured(run: Path, saved: float) -> tuple[list[Measured], int]:
    """The newest tables that tell of a run, and how many files could not be read.

    Reports are looked for in `evals` here and beside the folder of the runs.

    Args:
        run: The run's folder.
        saved: When its newest checkpoint was written, in seconds since 1970.
    """
    folders = {p.resolve(): p for p in (run.parent.parent / FOLDER, Path(FOLDER))}
    files = [f for p in folders.values() for f in (*p.glob("*.json"), *p.glob("*/search.json"))]
    found: list[Measured] = []
    broken = 0
    for file in sorted(files, key=lambda f: f.stat().st_mtime, reverse=True):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            old = file.stat().st_mtime < saved
            table = _table(content, file, run.resolve(), old)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            broken += 1
            continue
        if table is not None and len(found) < MOST:
            found.append(table)
    return found, broken


def _table(content: Mapping[str, Any], file: Path, run: Path, old: bool) -> Measured | None:
    """Raises what a file of another kind makes it raise."""
    search = "evaluations" in content
    settings = content["settings"] if search else {}
    models = [settings["model"]] if search else [row.get("model") for row in content["rows"]]
    # Reports lie in `evals`, one folder below where the command ran; searches one deeper.
    base = file.parent.parent.parent if search else file.parent.parent
    if not any(isinstance(model, str) and _inside(base / model, run) for model in models):
        return None
    notes = ["older than the newest checkpoint"] if old else []
    if search:
        best = sorted(content["evaluations"], key=lambda row: float(row["value"]))
        rows = [[", ".join(f"{t:g}" for t in row["times"]), f"{row['value']:.4g}"] for row in best]
        title = f"{file.parent.name}/{file.name}: noise levels, the best of {len(rows):,}"
        return Measured(title, ["noise levels", str(settings["metric"])], rows[:5], notes)
    names = list(dict.fromkeys(name for row in content["rows"] for name in row["figures"]))
    rows = []
    for row in content["rows"]:
        figures = [cell(row["figures"][n]) if n in row["figures"] else "" for n in names]
        facts = [_plain(row, key) for key in ("nfe", "seed", "n")]
        rows.append([str(portable(row["name"])), *facts, *figures])
    reference, features = content.get("reference") or {}, content.get("features") or {}
    against = f", against {portable(reference['name'])}" if "name" in reference else ""
    seen = f", features {features['features']}" if "features" in features else ""
    title = f"{file.name}: {content['command']}{against}{seen}"
    told = [str(note) for note in content.get("notes", [])]
    return Measured(title, ["images", "NFE", "seed", "n", *names], rows, notes + told)


def _plain(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return f"{value:,}" if isinstance(value, int) else ""


def _inside(path: Path, run: Path) -> bool:
    return path.resolve().is_relative_to(run)
