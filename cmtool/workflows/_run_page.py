"""A run as a page: its sections in HTML."""

import dataclasses
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmtool import registry
from cmtool._toml import write_value
from cmtool.workflows._curves import Curve, figure
from cmtool.workflows._html import pairs, picture, table, text
from cmtool.workflows._overview import ago, method_line
from cmtool.workflows._portable import in_words, portable
from cmtool.workflows._run_evals import Measured
from cmtool.workflows._run_facts import Log, RunFacts, Saved

KINDS = {"network": "networks", "schedule": "schedules", "solver": "solvers", "loss": "losses"}
"""Sections of a recipe that name a component."""
SMALL = 640
"""Pixels across."""


@dataclass(frozen=True)
class Sample:
    """A grid of samples.

    Args:
        title: Which step.
        content: The PNG file.
        size: Its width and height in pixels.
    """

    title: str
    content: bytes
    size: tuple[int, int]


def summary(run: RunFacts) -> str:
    """One line: how it stands, what it is."""
    what = f", {method_line(run.recipe, run.meta)}" if run.recipe else ""
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
    return (
        f"{text(run.state)}{text(what)}; last change {day} ({ago(run.changed)} when this was made)"
    )


def problems(run: RunFacts, log: Log) -> str:
    """What is damaged, or nothing."""
    found = [_below(run.path, line) for line in run.problems]
    if log.damaged:
        found.append(f"log.jsonl has {log.damaged:,} line(s) that are damaged and left out")
    if log.endless:
        found.append(f"log.jsonl has {log.endless:,} value(s) that are not finite and left out")
    return "".join(f'<p class="warn">{text(line)}</p>' for line in found)


def tiles(run: RunFacts, log: Log) -> str:
    """The few numbers that one asks first."""
    steps = f"{run.step:,}"
    if run.recipe is not None:
        steps += f" of {run.recipe.train.steps:,}"
    facts = {"steps": steps}
    if run.recipe is not None:
        facts["images seen"] = f"{run.step * run.recipe.train.batch_size:,}"
    loss, seconds = log.series.get("loss"), log.series.get("seconds")
    if loss and loss.values:
        last = loss.values[-10:]
        facts[f"loss, mean of the last {len(last)} lines"] = f"{sum(last) / len(last):.4g}"
    if seconds and seconds.values:
        middle = sorted(seconds.values)[len(seconds.values) // 2]
        gaps = zip(seconds.steps, [0.0, *seconds.steps], seconds.values, strict=False)
        facts["seconds a step, median"] = f"{middle:.3g}"
        facts["training time, about"] = duration(sum((b - a) * s for b, a, s in gaps))
    return "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in facts.items())


def duration(seconds: float) -> str:
    """Hours and minutes.

    Example:
        >>> duration(8000), duration(70), duration(5)
        ('2 h 13 min', '1 min', '5 s')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min"


def curves(found: Sequence[Curve], constant: Mapping[str, float], left_out: int) -> str:
    """Every curve, and what does not change."""
    if not found and not constant:
        return "<p>log.jsonl has no line yet.</p>"
    thick = next((c for c in found if c.thinned), None)
    how = "Point at a curve, or choose one by Tab and move by the arrow keys, to read its values."
    if thick is not None:
        how += (
            f" The log has {thick.lines:,} lines: a point is the mean of up to "
            f"{-(-thick.lines // len(thick.steps))} of them, the band their least and largest."
        )
    if left_out:
        how += f" {left_out} more are in log.jsonl."
    same = ", ".join(f"{name} = {value:g}" for name, value in constant.items())
    rest = f'<p class="soft">The same in every line: {text(same)}.</p>' if same else ""
    cards = "".join(figure(curve, i) for i, curve in enumerate(found))
    return f'<p class="soft">{how}</p><div class="cards">{cards}</div>{rest}'


def samples(found: Sequence[Sample], total: int, broken: int) -> str:
    """A picture and a slider."""
    told = [f"{broken} picture(s) could not be read."] if broken else []
    if not found:
        none = "No grid of samples yet (train.sample_every says how often one is drawn)."
        return "".join(f"<p>{text(line)}</p>" for line in [none, *told])
    if len(found) < total - broken:
        told.append(f"{len(found)} of {total} grids are in this page, all of them in samples/.")
    last = len(found) - 1
    pictures = "".join(
        f'<img src="{picture(s.content)}" width="{_shown(s)[0]}" height="{_shown(s)[1]}" '
        f'alt="samples, {text(s.title)}" title="{text(s.title)}"{"" if i == last else " hidden"}>'
        for i, s in enumerate(found)
    )
    now = text(found[-1].title)
    slider = (
        f'<label>of <output>{now}</output><input type="range" min="0" max="{last}" step="1" '
        f'value="{last}" aria-label="samples over time" aria-valuetext="{now}"'
        f"{' disabled' if last == 0 else ''}></label>"
    )
    notes = "".join(f'<p class="soft">{text(line)}</p>' for line in told)
    return f'<div class="card samples">{slider}{pictures}{notes}</div>'


def _shown(sample: Sample) -> tuple[int, int]:
    """Small grids are shown twice as large."""
    times = 2 if sample.size[0] <= SMALL else 1
    return times * sample.size[0], times * sample.size[1]


def figures(found: Sequence[Measured], broken: int, run: Path) -> str:
    """The tables of `cmtool eval`."""
    parts = []
    for one in found:
        notes = "".join(f'<p class="soft">note: {text(note)}</p>' for note in one.notes)
        parts.append(f'<div class="card">{table(one.head, one.rows, one.title)}{notes}</div>')
    if not found:
        command = text(f"cmtool eval fd --model {shlex.quote(portable(str(run)))}")
        none = "No report in evals/ tells of this run; one is made by"
        parts.append(f"<p>{none} <code>{command}</code>.</p>")
    if broken:
        parts.append(f'<p class="soft">{broken} file(s) in evals/ are no such report.</p>')
    return "".join(parts)


def recipe(run: RunFacts, raw: str) -> str:
    """Every setting; those that differ from the tool's own are marked, with what that would be."""
    if run.recipe is None:
        return f"<p>It cannot be read as a recipe:</p><pre>{text(raw)}</pre>"
    cards = []
    for field in dataclasses.fields(run.recipe):
        section = getattr(run.recipe, field.name)
        if section is None:
            continue
        rows = "".join(
            f"<dt>{text(key)}</dt><dd>{_value(value, default)}</dd>"
            for key, value, default in _settings(field.name, section)
        )
        cards.append(f"<div><h3>[{text(field.name)}]</h3><dl>{rows}</dl></div>")
    told = "Marked: what differs from the default, which stands behind it."
    return f'<p class="soft">{told}</p><div class="columns">{"".join(cards)}</div>'


def _settings(section: str, value: Any) -> list[tuple[str, object, object]]:
    """Key, value and default; where there is no default, the value itself."""
    found: list[tuple[str, object, object]] = []
    if section in KINDS:
        name = registry.name_of(KINDS[section], type(value))
        found.append(("name", name, name))
    for field in dataclasses.fields(value):
        here, default = getattr(value, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append((field.name, here, here if default is dataclasses.MISSING else default))
    return found


def _value(value: object, default: object) -> str:
    if value == default:
        return text(_written(value))
    return f"<mark>{text(_written(value))}</mark> <small>{text(_written(default))}</small>"


def _written(value: object) -> str:
    return "not set" if value is None else write_value(value)


def provenance(run: RunFacts, saved: Sequence[Saved], versions: Mapping[str, str]) -> str:
    """Where the model comes from, and what there is of it."""
    facts: dict[str, object] = {}
    if run.recipe is not None:
        facts["seed"] = run.recipe.train.seed
    if run.meta is not None:
        facts |= {f"{name}, trained by": told for name, told in run.meta.versions.items()}
        facts |= _flat(run.meta.origin)
        facts |= {f"sha256 of {name}": told for name, told in run.meta.sha256.items()}
    facts |= {f"{name}, of this page": told for name, told in versions.items()}
    rows = [
        [
            one.path.name,
            f"{one.meta.images:,}" if one.meta else "",
            ", ".join(one.meta.weights) if one.meta else "",
            f"{one.size / 1e6:,.1f} MB",
            _below(run.path, one.problem or _use(one)),
        ]
        for one in saved
    ]
    head = ["checkpoint", "images seen", "weights", "size", "state"]
    kept = table(head, rows, "Checkpoints that are kept") if rows else "<p>No checkpoint yet.</p>"
    return f'<div class="card">{kept}{pairs(facts)}</div>'


def _use(saved: Saved) -> str:
    return "whole, can be resumed" if saved.resumable else "whole, weights only"


def _below(run: Path, message: str) -> str:
    """A message that tells a run's path without the folders of this machine."""
    return message.replace(f"{run.parent.parent}{os.sep}", "") if run.is_absolute() else message


def _flat(facts: Mapping[str, Any], above: str = "") -> dict[str, object]:
    """Nested facts by dotted names, without the folders of this machine."""
    found: dict[str, object] = {}
    for key, value in facts.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        else:
            found[name] = in_words(portable(value)) if isinstance(value, list) else portable(value)
    return found
