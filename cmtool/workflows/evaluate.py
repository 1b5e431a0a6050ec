"""`cmtool eval`: how good images are, drawn from a model or given: a table, a file, a picture."""

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cmtool import images
from cmtool.errors import RecipeError, Say, Stopped, silent
from cmtool.metrics.features.base import Extractor
from cmtool.metrics.features.catalog import open_features
from cmtool.metrics.protocols import Protocol
from cmtool.metrics.references import content_hash
from cmtool.workflows import _figures, _report
from cmtool.workflows._features import Progress, gather, vault_of
from cmtool.workflows._output import Draft, check_target, draft_of, open_draft
from cmtool.workflows._processes import Processes, processes
from cmtool.workflows._reference import (
    Measured,
    Reference,
    check,
    is_lossy,
    measure,
    open_reference,
    open_set,
    reference_name,
)
from cmtool.workflows._report import Row
from cmtool.workflows._subjects import Opened, Subject, drawn, open_models, rules_for, stored
from cmtool.workflows._subjects import Request as Request
from cmtool.workflows.load import pick_device


@dataclass(frozen=True)
class EvalReport:
    """What was measured.

    Args:
        content: All of it as plain data, see docs/eval.md.
        paths: The files written.
    """

    content: dict[str, Any]
    paths: tuple[Path, ...]

    def table(self) -> str:
        """For a terminal."""
        return _report.table(self.content)


@dataclass(frozen=True)
class Plan:
    """All that is opened and checked before the first image is drawn."""

    metrics: tuple[str, ...]
    subjects: tuple[Subject, ...]
    reference: Reference | None
    extractor: Extractor
    protocol: Protocol
    device: torch.device
    out: Path
    drafts: tuple[Draft | None, ...]
    notes: tuple[str, ...]


def evaluate(
    request: Request,
    *,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> EvalReport:
    """Measures images; of several processes each takes its share, and all make the same figures.

    Args:
        request: What is measured against what.
        say: Is told what is done how.
        progress: Is told (images done, images in all).

    Raises:
        CmtoolError: Something cannot be opened, compared or written.
        Stopped: A signal came; what is done is kept, and the same call goes on.
    """
    request.check()
    try:
        with processes() as here:
            return _evaluate(request, here, say, progress)
    except KeyboardInterrupt:
        raise Stopped(
            "stopped; what is measured is kept", "the same command goes on", signal.SIGINT
        ) from None


def _evaluate(request: Request, here: Processes, say: Say, progress: Progress) -> EvalReport:
    plan: Plan | None = None
    with here.together():
        if here.first:  # Alone, as it may download the network.
            plan = _prepare(request, here, say)
    with here.together():
        plan = plan or _prepare(request, here, silent)
    measured = Measured(None, None)
    gaussian, rows = _figures.wants(plan.metrics)
    if plan.reference is not None:
        measured = measure(
            *(plan.reference, plan.extractor, plan.protocol, here),
            gaussian=gaussian,
            rows=rows,
            say=say,
            progress=progress,
        )
    found = [
        _measure(plan, subject, draft, measured, request, here, say, progress)
        for subject, draft in zip(plan.subjects, plan.drafts, strict=True)
    ]
    content: dict[str, Any] = {}
    with here.together():
        if here.first:
            content = _report.content_of(request.command, found, _settings(plan), _notes(plan))
            _write(plan.out, content)
    paths = [plan.out, plan.out.with_suffix(".png")]
    paths += [draft.target for draft in plan.drafts if draft is not None]
    return EvalReport(here.as_first(content), tuple(paths))


def _prepare(request: Request, here: Processes, say: Say) -> Plan:
    """Opens and checks everything; the network's file before what takes long."""
    metrics = request.metrics
    device = here.device(pick_device(request.device))
    models = [] if request.images else open_models(request, say)
    name = None if metrics == ("is",) else reference_name(request, models)
    rules = rules_for(request, models)
    extractor = open_features(request.features or rules.features, device, mode=rules.mode, say=say)
    subjects, notes = _subjects(models, rules, request, device, say)
    _check_rows(subjects)
    reference = None
    if name is not None:
        reference = open_reference(name, subjects[0].source.shape, models, request, say)
        notes += reference.notes
        alone = reference.data is None and len(metrics) > 1
        if alone and set(metrics) & {"kid", "pr"}:
            metrics = tuple(metric for metric in metrics if metric not in ("kid", "pr"))
            notes.append("KID, precision and recall need images, the reference is statistics alone")
        gaussian, rows = _figures.wants(metrics)
        check(reference, extractor, gaussian=gaussian, rows=rows)
    for subject in subjects:
        _figures.check(metrics, extractor, subject.source.n)
    out = _report.place_for(
        request.out, _file_name(subjects[0]), request.command, overwrite=request.overwrite
    )
    drafts = _drafts(subjects, request, here)
    if here.first:
        _report.check_place(out)
    return Plan(metrics, subjects, reference, extractor, rules, device, out, drafts, tuple(notes))


def _subjects(
    models: Sequence[Opened], rules: Protocol, request: Request, device: torch.device, say: Say
) -> tuple[tuple[Subject, ...], list[str]]:
    if models:
        found = [
            drawn(opened, plan, seed, rules, request, device)
            for opened in models
            for plan in opened.plans
            for seed in request.all_seeds()
        ]
        return tuple(found), []
    notes, subjects = [], []
    for place in request.images:
        data = open_set(place, request, say)
        say(f"images {place}: {len(data):,}")
        subjects.append(stored(data, place, content_hash(data), request.n))
        if (n := subjects[-1].source.n) < len(data):
            notes.append(f"of {place} the first {n:,} of {len(data):,} images, in their order")
        if is_lossy(place):
            notes.append(f"{place} holds images of a lossy format, which changes every figure")
    return tuple(subjects), notes


def _check_rows(subjects: Sequence[Subject]) -> None:
    first, known = subjects[0], set()
    for subject in subjects:
        row = (subject.name, subject.record.get("plan"), subject.record.get("seed"))
        if row in known:  # It would count as another seed.
            raise RecipeError(f"'{subject.source.name}' comes twice", "each once")
        known.add(row)
    for other in subjects[1:]:
        if other.source.shape != first.source.shape:
            told = ", ".join(
                f"{s.name}: {'x'.join(map(str, s.source.shape))}" for s in (first, other)
            )
            raise RecipeError(f"the images differ in size or colour: {told} (CxHxW)", "one by one")


def _file_name(subject: Subject) -> str:
    path = Path(subject.record.get("model", subject.name))
    return path.resolve().name if path.is_dir() else path.stem


def _drafts(
    subjects: Sequence[Subject], request: Request, here: Processes
) -> tuple[Draft | None, ...]:
    """Where the images are kept, a place for each row."""
    if request.save_samples is None:
        return (None,) * len(subjects)
    found = []
    for number, subject in enumerate(subjects):
        target = request.save_samples
        if len(subjects) > 1:
            nfe, seed = subject.record["nfe"], subject.record["seed"]
            target /= f"{number:02d}-{_file_name(subject)}-nfe{nfe}-seed{seed}"
        if here.first:
            check_target(target, overwrite=request.overwrite, resume=_begun(target))
        found.append(open_draft(target, subject.source.n, subject.source.shape))
    return tuple(found)


def _begun(target: Path) -> bool:
    return (draft_of(target) / "request.json").is_file()


def _measure(
    plan: Plan,
    subject: Subject,
    draft: Draft | None,
    reference: Measured,
    request: Request,
    here: Processes,
    say: Say,
    progress: Progress,
) -> Row:
    """Draws or reads, extracts, computes."""
    if subject.denoiser is not None:
        subject.denoiser.to(plan.device)
    # Probabilities cost nothing beside the features; kept, they spare drawing again for the score.
    vault = vault_of(subject.source, plan.extractor, probabilities=plan.extractor.classes > 0)
    with here.together():
        if here.first and draft is not None:
            draft.begin(subject.source.facts, resume=_begun(draft.target))
    gather(vault, subject.source, plan.extractor, here, say=say, progress=progress, draft=draft)
    figures: _figures.Figures = {}
    with here.together():
        if here.first:
            if draft is not None:
                draft.finish()
            figures = _figures.figures(
                *(plan.metrics, vault, reference, plan.extractor, plan.protocol, request.bootstrap)
            )
    if subject.denoiser is not None:
        subject.denoiser.to("cpu")
    return Row(subject.name, subject.record, figures)


def _settings(plan: Plan) -> dict[str, Any]:
    rules = plan.protocol.record() | {"features": plan.extractor.name}
    if plan.extractor.name != "inception":
        rules.pop("mode")
    reference = plan.reference
    return {
        "protocol": rules,
        "features": dict(plan.extractor.facts) | {"random": plan.extractor.random},
        "reference": None if reference is None else {**reference.record, "name": reference.name},
    }


def _notes(plan: Plan) -> list[str]:
    width = plan.extractor.dim or math.prod(plan.subjects[0].source.shape)
    found = list(plan.notes)
    for n in sorted({subject.source.n for subject in plan.subjects}):
        found += _figures.notes(n, plan.extractor, plan.metrics, width)
    return found


def _write(out: Path, content: dict[str, Any]) -> None:
    _report.write_json(out, content)
    images.save_png(out.with_suffix(".png"), _report.picture(content))
