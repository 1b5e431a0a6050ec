"""Opens a feature network by its name or its path."""

from pathlib import Path

import torch

from cmtool.errors import RecipeError, Say, did_you_mean, silent
from cmtool.metrics.features.base import Extractor
from cmtool.metrics.features.inception import open_inception
from cmtool.metrics.features.lite0 import open_lite0
from cmtool.metrics.features.own_file import SUFFIXES, open_file
from cmtool.metrics.features.pixel import open_pixel

NAMES = ("inception", "lite0", "pixel")


def open_features(
    spec: str,
    device: torch.device | str = "cpu",
    *,
    mode: str = "clean",
    say: Say = silent,
) -> Extractor:
    """Opens a feature network, its weights fetched and checked.

    Args:
        spec: A name of `NAMES`, or the path of a TorchScript (.pt, .ts) or torch.export (.pt2) file
            with a sidecar; see `own_file`.
        device: Where it runs.
        mode: Inception's way to 299 x 299: a protocol's; the others have one way each.
        say: Is told of downloads.

    Raises:
        CmtoolError: It is unknown, or cannot be had.

    Example:
        >>> import numpy as np
        >>> pixel = open_features("pixel")
        >>> pixel.title("FD"), pixel(np.full((2, 1, 8, 8), 51, np.uint8)).features[0, 0].item()
        ('FD-pixel', 0.20000000298023224)
    """
    device = torch.device(device)
    if spec == "inception":
        return open_inception(device, mode, say)
    if spec == "lite0":
        return open_lite0(device)
    if spec == "pixel":
        return open_pixel(device)
    if Path(spec).suffix in SUFFIXES:
        return open_file(Path(spec).expanduser(), device)
    raise RecipeError(
        f"unknown features '{spec}'{did_you_mean(spec, NAMES)}",
        f"one of {', '.join(NAMES)}, or the path of a {', '.join(SUFFIXES)} file",
    )
