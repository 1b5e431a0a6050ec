"""Line plots as pixels: a figure for a report without a plotting library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#1f6fb4", "#d95f0e", "#238b45", "#88419d", "#8c6d31", "#444444")
_SCALE = 2
"""Everything is drawn so many times larger and then reduced, for smooth lines."""
_INK, _PALE = "#222222", "#dddddd"
_LEFT, _RIGHT, _TOP, _BOTTOM, _ROW = 72, 18, 34, 52, 20


@dataclass(frozen=True)
class Line:
    """Points in the order in which they are joined.

    Args:
        name: Its words in the legend; empty for none.
        x: Where.
        y: How much; a value that is not finite is left out.
        mark: A level across the plot, without points.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    mark: bool = False


@dataclass(frozen=True)
class Axis:
    """One direction.

    Args:
        label: Name and unit.
        low: Smallest value.
        high: Largest value.
        log: Whether equal distances are equal ratios.
        at: Pixels at low and high.
    """

    label: str
    low: float
    high: float
    log: bool
    at: tuple[float, float]

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, here = (
            math.log(v) if self.log else v for v in (self.low, self.high, value)
        )  # fmt: skip
        return self.at[0] + (here - low) / (high - low) * (self.at[1] - self.at[0])

    def ticks(self) -> list[float]:
        """Round numbers within low .. high."""
        found = _decades(self.low, self.high) if self.log else []
        return found if len(found) > 1 else _even(self.low, self.high)


def line_plot(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    size: tuple[int, int] = (640, 400),
) -> NDArray[np.uint8]:
    """Draws lines with their points, axes, ticks and a legend.

    Args:
        lines: One or more; values on a logarithmic axis above 0.
        title: Stands above.
        x_label: Stands below.
        y_label: Stands at the left.
        log_x: Whether equal distances along x are equal ratios.
        log_y: The same along y.
        size: Width and height in pixels.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: There is no finite point, or one at or below 0 on a logarithmic axis.
    """
    lines = [_finite(line) for line in lines]
    width, height = (side * _SCALE for side in size)
    across = (_LEFT * _SCALE, width - _RIGHT * _SCALE)
    legend = _legend(lines, across)
    rows = 1 + max((row for _, row in legend.values()), default=-1)
    up = (height - (_BOTTOM + rows * _ROW) * _SCALE, _TOP * _SCALE)
    x = _axis(x_label, [v for line in lines for v in line.x], log_x, across)
    y = _axis(y_label, [v for line in lines for v in line.y], log_y, up)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    _draw_axes(draw, x, y, title)
    for colour, line in zip(_colours(lines), lines, strict=True):
        points = [(x(a), y(b)) for a, b in zip(line.x, line.y, strict=True)]
        if line.mark:
            _dashes(draw, x.at, points[0][1], colour)
            continue
        draw.line(points, fill=colour, width=2 * _SCALE, joint="curve")
        for a, b in points:
            r = 3.5 * _SCALE
            draw.ellipse((a - r, b - r, a + r, b + r), fill=colour)
    for colour, line in zip(_colours(lines), lines, strict=True):
        if line.name:
            left, row = legend[line.name]
            middle = up[0] + (_BOTTOM + (row + 0.5) * _ROW) * _SCALE
            draw.line([(left, middle), (left + 22 * _SCALE, middle)], colour, 2 * _SCALE)
            draw.text((left + 28 * _SCALE, middle), line.name, _INK, _font(), anchor="lm")
    label = _text_image(y_label)
    sheet.paste(label, (4 * _SCALE, int((up[0] + up[1] - label.height) / 2)))
    return np.asarray(sheet.resize(size, Image.Resampling.BOX))


def _finite(line: Line) -> Line:
    kept = [p for p in zip(line.x, line.y, strict=True) if all(map(math.isfinite, p))]
    return Line(line.name, [a for a, _ in kept], [b for _, b in kept], line.mark)


def _axis(label: str, values: Sequence[float], log: bool, at: tuple[float, float]) -> Axis:
    if not values:
        raise ValueError("a plot needs a finite point")
    low, high = min(values), max(values)
    if log and low <= 0:
        raise ValueError(f"a logarithmic axis holds values above 0 only, got {low}")
    if log:
        margin = (high / low) ** 0.05 if high > low else 2.0
        return Axis(label, low / margin, high * margin, True, at)
    margin = 0.05 * (high - low) or abs(high) or 1.0
    return Axis(label, low - margin, high + margin, False, at)


def _even(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    digits = (1,) if high / low > 300 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [t for p in powers for d in digits if low <= (t := d * 10.0**p) <= high]


def _colours(lines: Sequence[Line]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(lines))]


def _font(points: int = 13) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(points * _SCALE)


def _draw_axes(draw: ImageDraw.ImageDraw, x: Axis, y: Axis, title: str) -> None:
    font, gap = _font(), 6 * _SCALE
    for tick in x.ticks():
        draw.line([(x(tick), y.at[0]), (x(tick), y.at[1])], fill=_PALE, width=_SCALE)
        draw.text((x(tick), y.at[0] + gap), f"{tick:.6g}", _INK, font, anchor="mt")
    for tick in y.ticks():
        draw.line([(x.at[0], y(tick)), (x.at[1], y(tick))], fill=_PALE, width=_SCALE)
        draw.text((x.at[0] - gap, y(tick)), f"{tick:.6g}", _INK, font, anchor="rm")
    corners = [(x.at[0], y.at[1]), (x.at[0], y.at[0]), (x.at[1], y.at[0])]
    draw.line(corners, fill=_INK, width=_SCALE)
    middle = (x.at[0] + x.at[1]) / 2
    draw.text((middle, y.at[0] + 28 * _SCALE), x.label, _INK, font, anchor="mt")
    draw.text((middle, 10 * _SCALE), title, _INK, _font(14), anchor="mt")


def _dashes(
    draw: ImageDraw.ImageDraw, across: tuple[float, float], height: float, colour: str
) -> None:
    for left in range(int(across[0]), int(across[1]), 12 * _SCALE):
        right = min(left + 7 * _SCALE, across[1])
        draw.line([(left, height), (right, height)], fill=colour, width=2 * _SCALE)


def _legend(lines: Sequence[Line], across: tuple[float, float]) -> dict[str, tuple[float, int]]:
    """Where each name stands below the plot: its left end and its row."""
    font, left, row = _font(), across[0], 0
    places: dict[str, tuple[float, int]] = {}
    for line in lines:
        if not line.name:
            continue
        wide = font.getlength(line.name) + 28 * _SCALE
        if left > across[0] and left + wide > across[1]:
            left, row = across[0], row + 1
        places[line.name] = (left, row)
        left += wide + 20 * _SCALE
    return places


def _text_image(text: str) -> Image.Image:
    """Words that run upwards."""
    font = _font()
    picture = Image.new("RGB", (int(font.getlength(text)) + 2, 20 * _SCALE), "white")
    ImageDraw.Draw(picture).text((0, 10 * _SCALE), text, _INK, font, anchor="lm")
    return picture.transpose(Image.Transpose.ROTATE_90)
