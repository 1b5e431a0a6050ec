"""How near an edited picture is to the clean one."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from cmtool.errors import DataError
from cmtool.images import Pixels, from_uint8
from cmtool.metrics import similarity


@dataclass(frozen=True)
class Score:
    """Figures of a picture, None where there is none.

    Args:
        psnr: See `cmtool.metrics.similarity`.
        ssim: See there.
        lpips: See there.
        error: ||A x - y|| / ||y|| before the result is brought into [-1, 1].
        saved_error: The same once it is 8-bit.
    """

    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    error: float | None = None
    saved_error: float | None = None

    def __str__(self) -> str:
        names = {
            "psnr": "PSNR {:.2f} dB",
            "ssim": "SSIM {:.3f}",
            "lpips": "LPIPS {:.3f}",
            "error": "measurement error {:.2g}",
            "saved_error": "{:.2g} once saved",
        }
        values = {name: getattr(self, name) for name in names}
        return ", ".join(names[key].format(v) for key, v in values.items() if v is not None)


def score(
    pixels: Pixels, truth: Tensor | None, error: float | None, saved_error: float | None
) -> Score:
    """Compares a saved result with the clean picture.

    Args:
        pixels: (H, W, C), the result.
        truth: (C, H, W) in [-1, 1]; None leaves all but the errors out.
        error: See `Score`.
        saved_error: See `Score`.

    Raises:
        DataError: Their sizes differ.
    """
    if truth is None:
        return Score(error=error, saved_error=saved_error)
    x = from_uint8(torch.from_numpy(pixels)).permute(2, 0, 1)
    if truth.shape != x.shape:
        sizes = [f"{a.shape[2]}x{a.shape[1]}" for a in (truth, x)]
        raise DataError(
            f"the truth is {sizes[0]} and the result {sizes[1]}",
            "--truth with a picture of the result's size",
        )
    truth = truth.cpu()
    return Score(
        similarity.psnr(x, truth),
        similarity.ssim(x, truth),
        similarity.lpips(x, truth),
        error,
        saved_error,
    )


def mean_score(scores: Sequence[Score]) -> Score:
    """The means of the figures that all have."""
    means = {}
    for field in fields(Score):
        values = [getattr(one, field.name) for one in scores]
        means[field.name] = None if None in values else sum(values) / len(values)
    return Score(**means)
