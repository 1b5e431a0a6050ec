"""The report of `cmtool eval`: a table, a JSON file and a picture."""

import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmtool import __version__, images, plots
from cmtool.errors import DataError
from cmtool.files import whole, why
from cmtool.metrics.protocols import differences
from cmtool.workflows._figures import Figures

FORMAT = 1


@dataclass(frozen=True)
class Row:
    """Figures of one set of images.

    Args:
        name: The model or the place of the images.
        record: What was measured how: see docs/eval.md.
        figures: By name.
    """

    name: str
    record: Mapping[str, Any]
    figures: Figures

    @property
    def nfe(self) -> int | None:
        """Network evaluations an image; None for images that were there."""
        return self.record.get("nfe")

    def group(self) -> tuple[Any, ...]:
        """What is the same in rows that differ by their seed alone."""
        return (self.name, self.record.get("plan"), self.record["n"])


def content_of(
    command: str, rows: Sequence[Row], settings: Mapping[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    """The whole report as plain data."""
    told = [*notes, *_apart(rows)]
    return {
        "format": FORMAT,
        "command": command,
        "versions": {
            "cmtool": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        **settings,
        "rows": [{"name": r.name, **r.record, "figures": r.figures} for r in rows],
        "summary": summary(rows),
        "notes": list(dict.fromkeys(told)),
    }


def _apart(rows: Sequence[Row]) -> list[str]:
    """Says which rows of a table must not be compared."""
    keys = ("n", "rounding")
    plain = [{key: row.record[key] for key in keys if key in row.record} for row in rows]
    found = []
    for row, record in zip(rows[1:], plain[1:], strict=True):
        shared = {key: plain[0][key] for key in record if key in plain[0]}
        different = differences(shared, {key: record[key] for key in shared})
        if different:
            found.append(
                f"{rows[0].name} and {row.name} cannot be compared: {'; '.join(different)}"
            )
    return found


def summary(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean and minimum over the seeds, for rows that have several; of scores the maximum too."""
    found = []
    for group in dict.fromkeys(row.group() for row in rows):
        same = [row for row in rows if row.group() == group]
        if len(same) < 2:
            continue
        over: dict[str, Any] = {}
        for name in same[0].figures:
            values = [row.figures[name]["value"] for row in same]
            over[name] = {
                "mean": float(np.mean(values)),
                "min": min(values),
                "max": max(values),
                "deviation": float(np.std(values, ddof=1)),
                "values": values,
            }
        seeds = [row.record["seed"] for row in same]
        record = {"name": group[0], "nfe": same[0].nfe, "n": group[2], "seeds": seeds}
        found.append({**record, "figures": over})
    return found


def table(content: Mapping[str, Any]) -> str:
    """The report for a terminal: a line for each row, then mean and minimum, then the notes."""
    rows = content["rows"]
    names = list(rows[0]["figures"])
    head = ["images", "NFE", "seed", "n", *names]
    body = [[*_place(row), *(cell(row["figures"][name]) for name in names)] for row in rows]
    for group in content["summary"]:
        for which in ("mean", "min"):
            cells = [f"{group['figures'][name][which]:.4g}" for name in names]
            seeds = f"{which} of {len(group['seeds'])}"
            body.append([group["name"], str(group["nfe"]), seeds, f"{group['n']:,}", *cells])
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *body]
    ]
    reference = content["reference"]
    if reference is not None:
        count = "unknown many" if reference["images"] is None else f"{reference['images']:,}"
        lines.append(f"against {count} images of {reference['name']}")
    protocol, features = content["protocol"], content["features"]["features"]
    lines.append(f"protocol {protocol['name']}, features {features}")
    return "\n".join([*lines, *(f"note: {note}" for note in content["notes"])])


def _place(row: Mapping[str, Any]) -> list[str]:
    nfe, seed = row.get("nfe"), row.get("seed")
    return [row["name"], "" if nfe is None else str(nfe), "" if seed is None else str(seed),
            f"{row['n']:,}"]  # fmt: skip


def cell(figure: Mapping[str, Any]) -> str:
    """A figure with its interval or deviation."""
    text = f"{figure['value']:.4g}"
    if "interval" in figure:
        low, high = figure["interval"]
        text += f" [{low:.4g}, {high:.4g}]"
    elif "deviation" in figure:
        text += f" ± {figure['deviation']:.2g}"
    return text


def picture(content: Mapping[str, Any]) -> images.Pixels:
    """Each figure against the network evaluations, one plot below the other."""
    rows = content["rows"]
    counts = [row["nfe"] for row in rows if row.get("nfe")]
    sheets = []
    for name in rows[0]["figures"]:
        lines = []
        for label in dict.fromkeys(row["name"] for row in rows):
            own = [row for row in rows if row["name"] == label]
            points = _points(own, name)
            lines.append(plots.Line(label, *points, mark=own[0].get("nfe") is None))
        sheets.append(
            plots.line_plot(
                lines,
                title=f"{name}, {_each(rows)} images",
                x_label="network evaluations an image",
                y_label=name,
                log_x=bool(counts) and max(counts) > 4 * min(counts),
            )
        )
    return np.concatenate(sheets)


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Evaluations and mean values over the seeds, in order."""
    by_nfe: dict[int, list[float]] = {}
    for row in rows:
        by_nfe.setdefault(row.get("nfe") or 1, []).append(row["figures"][name]["value"])
    return (
        [float(nfe) for nfe in sorted(by_nfe)],
        [float(np.mean(by_nfe[nfe])) for nfe in sorted(by_nfe)],
    )


def _each(rows: Sequence[Mapping[str, Any]]) -> str:
    return " or ".join(f"{n:,}" for n in sorted({row["n"] for row in rows}))


def place_for(out: Path | None, name: str, command: str, *, overwrite: bool) -> Path:
    """Where the report goes.

    Raises:
        DataError: That is taken, or no JSON file.
    """
    if out is not None:
        if out.suffix.lower() != ".json" or out.is_dir():
            raise DataError(
                f"cannot write the report to '{out}'", f"--out {out.with_suffix('.json')}"
            )
        if out.exists() and not overwrite:
            raise DataError(f"'{out}' is there already", "--overwrite, or another --out")
        return out
    number, base = 1, Path("evals") / f"{name}-{command}"
    while (path := Path(f"{base}{'' if number == 1 else f'-{number}'}.json")).exists():
        number += 1
    return path


def check_place(out: Path) -> None:
    """Makes the report's folder and tries to write there, before anything that takes long.

    Raises:
        DataError: It cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as problem:
        raise DataError(f"cannot write '{out}': {why(problem)}", "another --out") from None


def write_json(path: Path, content: object) -> None:
    """Writes a report, whole or not at all; makes the folder.

    Raises:
        DataError: It cannot be written.
    """
    try:
        with whole(path) as draft:
            draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as problem:
        raise DataError(
            f"cannot write '{path}': {why(problem)}", "free space or another --out"
        ) from None
