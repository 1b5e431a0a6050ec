"""The gallery's commands take a model of coloured pictures: no newer one may lie in runs/."""

import os
import shutil
from pathlib import Path

from doc_pages import ROOT


def make(folder: Path) -> None:
    """Leaves the coloured models; the last of recipes/ship.py's runs, and a clone's checkpoints."""
    for run in ("digits-cd", "digits-dsm"):
        shutil.rmtree(folder / "runs" / run)
    shutil.copytree(folder / "runs" / "cifar10-cd", folder / "runs" / "ship" / "cifar10-refined-2")
    os.symlink(ROOT / "checkpoints", folder / "checkpoints")
