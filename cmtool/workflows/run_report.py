"""`cmtool info RUN --html`: a run in one page that needs no network and nothing beside it."""

import platform
import re
from dataclasses import replace
from pathlib import Path

import torch

from cmtool import __version__, images
from cmtool.errors import DataError
from cmtool.files import whole, why
from cmtool.workflows import _run_page as parts
from cmtool.workflows._curves import curves_of, drawn
from cmtool.workflows._html import data, page, text
from cmtool.workflows._portable import portable, without_folders
from cmtool.workflows._run_evals import measured
from cmtool.workflows._run_facts import RECIPE, checkpoints, facts_of, is_run, read_log
from cmtool.workflows._rundir import LOG

TEMPLATE = Path(__file__).with_name("_run_page.html")
MOST_CURVES = 32
MOST_SAMPLES = 40
MOST_BYTES = 8_000_000
"""Of all pictures together, before they become text."""
_STEP = re.compile(r"step-(\d{1,15})")


def report(what: str | None, out: Path, *, overwrite: bool = False) -> Path:
    """Writes a run's report, whole or not at all.

    Args:
        what: The run's folder.
        out: The page.
        overwrite: Whether `out` may exist.

    Raises:
        DataError: There is no run, or the page cannot be written.
    """
    run = Path(what or "")
    if what is None or not is_run(run):
        named = "no run is given" if what is None else f"'{what}' is no run's folder"
        raise DataError(f"a report is of a run, and {named}", "cmtool info runs/NAME --html FILE")
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise DataError(f"cannot write the report to '{out}'", f"--html {out.with_suffix('.html')}")
    if out.exists() and not overwrite:
        raise DataError(f"'{out}' is there already", "--overwrite, or another --html")
    content = page(TEMPLATE, sections(run))
    try:
        with whole(out) as draft:
            draft.write_text(content, encoding="utf-8")
    except OSError as problem:
        raise DataError(f"cannot write '{out}': {why(problem)}", "another --html") from None
    return out


def sections(run: Path) -> dict[str, str]:
    """The template's parts for a run."""
    facts, log, saved = facts_of(run), read_log(run / LOG), checkpoints(run)
    recipe = without_folders(facts.recipe) if facts.recipe else None
    facts = replace(facts, recipe=recipe)
    last = max(facts.step, recipe.train.steps if recipe and facts.state == "finished" else 0)
    curves, constant = curves_of(log, recipe.train.batch_size if recipe else None, last)
    left_out = max(0, len(curves) - MOST_CURVES)
    curves = curves[:MOST_CURVES]
    pictures, total, broken = _pictures(run / "samples")
    newest = max((one.path.stat().st_mtime for one in saved), default=0.0)
    tables, strange = measured(run, newest)
    versions = {
        "cmtool": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    name = portable(str(run))
    return {
        "title": text(f"{name}: report of a run"),
        "name": text(name),
        "summary": parts.summary(facts),
        "problems": parts.problems(facts, log),
        "tiles": parts.tiles(facts, log),
        "curves": parts.curves(curves, constant, left_out),
        "samples": parts.samples(pictures, total, broken),
        "figures": parts.figures(tables, strange, run),
        "recipe": parts.recipe(facts, _read(run / RECIPE)),
        "provenance": parts.provenance(facts, saved, versions),
        "data": data([drawn(curve) for curve in curves]),
    }


def _pictures(folder: Path) -> tuple[list[parts.Sample], int, int]:
    """Grids that are evenly spaced, so many that they stay small; the number of all, of broken."""
    files = sorted(folder.glob("*.png"))
    sizes = [file.stat().st_size for file in files]
    count = min(len(files), MOST_SAMPLES)
    while count > 1 and sum(sizes[i] for i in _spread(len(files), count)) > MOST_BYTES:
        count -= 1
    found, broken = [], 0
    for i in _spread(len(files), count):
        try:
            content = files[i].read_bytes()
            width, height, _ = images.peek(content, files[i].name)
        except (OSError, DataError):
            broken += 1
            continue
        step = _STEP.fullmatch(files[i].stem)
        title = f"step {int(step[1]):,}" if step else files[i].stem
        found.append(parts.Sample(title, content, (width, height)))
    return found, len(files), broken


def _spread(total: int, count: int) -> list[int]:
    """So many of 0 .. total - 1, the last and, if there is room, the first among them."""
    if count <= 1:
        return [total - 1][:count]
    return [round(i * (total - 1) / (count - 1)) for i in range(count)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
