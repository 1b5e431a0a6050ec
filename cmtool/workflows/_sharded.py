"""Draws a request's images into its draft: each process its share, whatever stops it."""

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import NoReturn

import torch
from torch import Tensor

from cmtool import images
from cmtool.denoiser import Denoiser
from cmtool.errors import CmtoolError, Stopped
from cmtool.signals import Signals
from cmtool.workflows._draw import Plan, default_batch, draw
from cmtool.workflows._output import Draft
from cmtool.workflows._processes import Processes

Progress = Callable[[int, int], None]


def draw_sharded(
    draft: Draft,
    here: Processes,
    model: Denoiser,
    plan: Plan,
    seed: int,
    *,
    batch_size: int | None,
    resume: bool,
    progress: Progress,
) -> None:
    """Draws what is missing and puts the result in its place.

    Args:
        draft: Where to; the first process begins it.
        here: The processes, all of which call this.
        model: On this process's device.
        plan: How.
        seed: Whose images.
        batch_size: Images at a time; None suits the device.
        resume: Whether the draft is there already.
        progress: Is told (images done, images in all).

    Raises:
        Stopped: A signal came; what is drawn is kept.
        CmtoolError: One of the processes cannot go on; what is drawn is kept.
    """
    with here.together():
        if here.first:
            draft.begin(identity(model, plan, seed, draft.n), resume=resume)
    with _kept(draft, here):
        with here.together():
            batch = min(batch_size or default_batch(model), -(-draft.n // here.world))
            _draw_share(draft, here, model, plan, seed, batch, progress)
        with here.together():
            if here.first:
                draft.finish()


def identity(model: Denoiser, plan: Plan, seed: int, n: int) -> dict[str, object]:
    """All that decides the images, as plain values."""
    planned = {f.name: getattr(plan, f.name) for f in fields(plan)}
    planned |= {"times": plan.times.tolist(), "solvers": list(map(str, plan.solvers))}
    planned |= {"schedule": str(plan.schedule or model.schedule), "labels": list(plan.labels)}
    return {"n": n, "seed": seed, **planned, **fingerprint(model)}


def fingerprint(model: Denoiser) -> dict[str, object]:
    """All of a model that decides its answers, as plain values."""
    made = {"kind": model.kind, "precond": str(model.precond), "network": _numbers(model)}
    return {**made, "weights": _hash(model)}


def _numbers(model: Denoiser) -> str:
    """SHA-256 of the plain values in the network's modules, such as numbers of heads, which no
    weight shows."""
    held = {
        f"{place}.{key}": value
        for place, module in model.network.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and key != "training" and key[0] != "_"
    }
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def _hash(model: Denoiser) -> str:
    """SHA-256 of the weights, wherever they come from."""
    found = hashlib.sha256()
    for name, value in sorted(model.network.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _draw_share(
    draft: Draft,
    here: Processes,
    model: Denoiser,
    plan: Plan,
    seed: int,
    batch: int,
    progress: Progress,
) -> None:
    batches = draft.missing(batch, here.rank, here.world)
    left = sum(map(len, batches)) * here.world
    with Signals() as signals:

        def watch(*_: Tensor) -> None:
            if signals.caught:
                raise Stopped(f"stopped by signal {signals.caught}", None, signals.caught)

        try:
            for numbers in batches:
                if draft.stopped:  # Another process has failed and will say why.
                    return
                x, labels = draw(model, plan, numbers, seed, watch=watch)
                pixels = images.to_uint8(x).permute(0, 2, 3, 1).numpy()
                draft.write(numbers, pixels, None if labels is None else labels.numpy())
                left -= len(numbers) * here.world
                progress(draft.n - max(left, 0), draft.n)
        except BaseException:
            draft.stop()
            raise


@contextmanager
def _kept(draft: Draft, here: Processes) -> Iterator[None]:
    """Says with an error what is kept; removes a draft that holds nothing."""
    try:
        yield
    except KeyboardInterrupt:
        _tell_kept(draft, here, Stopped("stopped at once", None, signal.SIGINT))
    except CmtoolError as error:
        _tell_kept(draft, here, error)
    except BaseException:
        if here.first:
            draft.discard_empty()
        raise


def _tell_kept(draft: Draft, here: Processes, error: CmtoolError) -> NoReturn:
    kept = draft.count()
    if kept:
        error.message += f"; {kept} of {draft.n} images are kept in '{draft.folder}'"
        go_on = "the same command with --resume goes on"
        error.hint = f"{error.hint}; {go_on}" if error.hint else go_on
    else:
        if here.first:
            draft.discard_empty()
        if isinstance(error, Stopped):
            error.hint = "the same command begins again"
    raise error
