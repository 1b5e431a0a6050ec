"""Noise levels as typed, `--times 80,0.8`."""

import math
from collections.abc import Sequence

from cmtool.denoiser import Denoiser
from cmtool.errors import RecipeError


def parse_times(text: str, sigma_data: float) -> list[float]:
    """`80,0.8` to noise levels; `trig:1.1` is an angle of TrigFlow, converted by sigma = sigma_data
    tan(t).

    Raises:
        RecipeError: Something in it is no number.

    Example:
        >>> [round(t, 4) for t in parse_times("80,trig:1.1", 0.5)]
        [80.0, 0.9824]
    """
    levels = []
    for part in text.split(","):
        kind, _, number = part.strip().rpartition(":")
        try:
            value = float(number)
        except ValueError:
            raise RecipeError(
                f"--times: '{part.strip()}' is not a number", "--times 80,0.8"
            ) from None
        if kind not in ("", "trig"):
            raise RecipeError(
                f"--times: unknown kind '{kind}'", "80 is a noise level, trig:1.1 an angle"
            )
        if kind == "trig" and not 0 < value < math.pi / 2:
            raise RecipeError(
                f"--times: an angle lies between 0 and pi/2, got {value:g}", "--times trig:1.5"
            )
        levels.append(sigma_data * math.tan(value) if kind == "trig" else value)
    return levels


def check_times(model: Denoiser, times: Sequence[float]) -> None:
    """Checks that a model can be sampled at noise levels.

    Raises:
        RecipeError: They do not fall, or leave the model's range.
    """
    text = ",".join(f"{t:g}" for t in times)
    if not times:
        raise RecipeError("--times needs at least one noise level")
    if not all(map(math.isfinite, times)):
        raise RecipeError(f"--times must be finite numbers, got {text}", "--times 80,0.8")
    ordered = sorted(set(times), reverse=True)
    if list(times) != ordered:
        hint = "--times " + ",".join(f"{t:g}" for t in ordered)
        raise RecipeError(f"--times must decrease, got {text}", hint)
    low, high = model.schedule.noise_range
    # Levels that went through an angle and back may differ in the last digit.
    hint = "--times " + ",".join(f"{min(max(t, low), high):g}" for t in times)
    if times[0] > high * (1 + 1e-9):
        raise RecipeError(
            f"--times {times[0]:g} is above the model's largest noise level {high:g}", hint
        )
    if times[-1] < low * (1 - 1e-9):
        raise RecipeError(
            f"--times {times[-1]:g} is below the model's smallest noise level {low:g}", hint
        )
