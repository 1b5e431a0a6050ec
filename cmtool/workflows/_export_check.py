"""Compares an export with its model: batches of 1 and 3, extreme noise levels, zeros, memory that
is not contiguous, classes."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from cmtool.denoiser import Denoiser
from cmtool.formats.base import Format, Pair, Source, stored

ROUNDING = {"float32": 0.0, "bfloat16": 0.05, "float16": 0.01}
"""How far rounded weights may move an output, in units of `Pair.tolerance`."""
Case = tuple[str, tuple[Tensor | None, ...]]


@dataclass(frozen=True)
class Row:
    """One comparison.

    Args:
        compared: The pair's name.
        case: Which input.
        error: Largest absolute difference over the larger of 1 and the largest output.
        tolerance: Largest error allowed: the pair's, or ten times what float32 itself errs by on
            this input.
    """

    compared: str
    case: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the two agree; a number that is none agrees with nothing."""
        return self.error <= self.tolerance


def compare(kind: Format, source: Source, pairs: list[Pair]) -> list[Row]:
    """Compares every pair on every input."""
    rows = []
    for pair in pairs:
        for case, inputs in _cases(kind, source, pair):
            with torch.no_grad():
                ours, theirs = pair.ours(*inputs), pair.theirs(*inputs)
                error, tolerance = _error(ours, theirs), pair.tolerance
                if error > tolerance:
                    tolerance = max(tolerance, 10 * _own_error(source.denoiser, pair, inputs, ours))
            rows.append(Row(pair.name, case, error, tolerance))
    return rows


def _own_error(
    model: Denoiser, pair: Pair, inputs: tuple[Tensor | None, ...], ours: Tensor
) -> float:
    """How far float32 takes the model itself from its answer in float64.

    Some inputs are ill-conditioned: of an image that is one grey level group norm divides what is
    left of rounding by next to nothing. No other runtime can be nearer than that; since this is one
    draw of such an error, ten times as much is allowed.
    """
    wide = [x.double() if x is not None and x.is_floating_point() else x for x in inputs]
    model.network.double()
    try:
        return _error(ours, pair.ours(*wide))
    finally:
        model.network.float()


def rounding(before: Denoiser, source: Source) -> Pair:
    """The model before its weights were rounded, and after."""
    name = f"weights in {source.dtype}"
    return Pair(name, before, source.denoiser, tolerance=ROUNDING[source.dtype])


def rounded(model: Denoiser, dtype: str) -> dict[str, Tensor]:
    """A model's weights, float32, as numbers that `dtype` can hold."""
    state = model.network.state_dict()
    return {key: stored(tensor, dtype).to(tensor.dtype) for key, tensor in state.items()}


def table(rows: list[Row]) -> str:
    """The report, a line for each comparison."""
    width = max(len(row.compared) for row in rows)
    case = max(len(row.case) for row in rows)
    return "\n".join(
        f"{'ok ' if row.passed else 'BAD'}  {row.compared:{width}}  {row.case:{case}}  "
        f"error {row.error:8.1e}  allowed {row.tolerance:g}"
        for row in rows
    )


def as_json(rows: list[Row]) -> list[dict[str, object]]:
    """The report for other programs; an error that is no finite number is a text."""
    return [asdict(row) | {"passed": row.passed, "error": _number(row.error)} for row in rows]


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _error(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return math.inf
    scale = max(1.0, float(ours.abs().max()))
    return float((ours.double() - theirs.double()).abs().max()) / scale


def _cases(kind: Format, source: Source, pair: Pair) -> Iterator[Case]:
    model = source.denoiser
    low, high = source.levels
    levels = pair.levels or (low, math.sqrt(low * high), high)
    shape = model.image_shape
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    for batch in (1, 3):
        label = torch.arange(batch) % model.num_classes if model.num_classes else None
        if pair.draws:
            draws = noise(pair.draws, batch, *shape)
            yield f"batch {batch}", (draws, label)
            turned = draws.transpose(-1, -2).contiguous().transpose(-1, -2)
            yield f"batch {batch}, not contiguous", (turned, label)
            continue
        for level in levels:
            t = torch.full((batch,), level)
            x = noise(batch, *shape).clamp(-1, 1) + level * noise(batch, *shape)
            yield f"batch {batch}, noise {level:g}", (x, t, label)
    if pair.draws:
        yield "zeros", (torch.zeros_like(draws), label)
        if label is not None and kind.without_class:
            yield "no class", (draws, torch.full_like(label, -1))
        return
    t = torch.tensor([levels[i % len(levels)] for i in range(batch)])
    x = noise(batch, *shape) * t[:, None, None, None]
    yield "a level for each image", (x, t, label)
    yield "zeros", (torch.zeros_like(x), t, label)
    turned = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield "not contiguous", (turned, t, label)
    if label is not None:
        yield "last class", (x, t, torch.full_like(label, model.num_classes - 1))
        if kind.without_class:
            yield "no class", (x, t, torch.full_like(label, -1))
