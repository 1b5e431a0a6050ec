"""Runs as `train` leaves them, made by hand: recipe, log, checkpoint and grids without training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmtool import images, recipe

TEXT = """
[network]
name = "tiny"
width = 16

[loss]
name = "ict"

[data]
name = "digits"
conditional = true

[train]
steps = 600
batch_size = 32
lr = 2e-3
ema = [0.99]
"""


def record(step: int, **more: Any) -> dict[str, Any]:
    """A line of a log: a loss that falls, a curriculum that doubles, a step of half a second."""
    loss = 1.5 / (1 + step / 40) + 0.01 * (step % 7)
    line = {"index": step, "images": 32 * step, "loss": loss, "lr": 2e-3, "seconds": 0.5}
    return line | {"N": 10 * 2.0 ** min(step // 150, 7), "mu": 0.0, "grad_norm": 3.0 - loss} | more


def write_log(run: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes log.jsonl."""
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))


def make_run(
    run: Path, *, text: str = TEXT, saved: int = 600, grids: int = 5, every: int = 10
) -> Path:
    """A run with a log up to `saved` steps, a checkpoint there and some grids."""
    run.mkdir(parents=True)
    resolved = recipe.dump(recipe.parse(text, "test"))
    (run / "recipe.toml").write_text(resolved)
    write_log(run, [record(step) for step in range(every, saved + 1, every)])
    add_checkpoint(run, saved, resolved)
    for i in range(1, grids + 1):
        shade = np.full((40, 60, 1), 40 * i % 256, np.uint8)
        images.save_png(run / "samples" / f"step-{saved * i // grids:08d}.png", shade)
    return run


def add_checkpoint(run: Path, step: int, resolved: str) -> Path:
    """A checkpoint whose weights are empty files."""
    folder = run / f"step-{step:08d}"
    (folder / "resume").mkdir(parents=True)
    meta = {
        "kind": "consistency",
        "image_shape": [1, 8, 8],
        "classes": list("0123456789"),
        "step": step,
        "images": 32 * step,
        "weights": ["student", "ema-0.99"],
        "origin": {
            "data": {"name": "digits", "size": 1400},
            "teacher": "/home/me/runs/dm/step-7",
            "command": ["cmtool", "distill", "digits/cd", "--teacher", "/home/me/runs/dm"],
        },
        "sha256": {"student": "ab" * 32, "ema-0.99": "cd" * 32},
        "versions": {"cmtool": "0.1.0", "torch": "2.6.0"},
        "format": 1,
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "recipe.toml").write_text(resolved)
    for name in ("student", "ema-0.99"):
        (folder / f"{name}.safetensors").touch()
    (folder / "resume" / "state.pt").touch()
    (run / "latest").write_text(folder.name)
    return folder


def evaluation(model: str, value: float, **more: Any) -> dict[str, Any]:
    """What `cmtool eval fd` writes."""
    figure = {"value": value, "interval": [value - 1, value + 1]}
    row = {"name": model, "model": model, "nfe": 1, "seed": 0, "n": 2000}
    return {
        "format": 1,
        "command": "fd",
        "protocol": {"name": "clean"},
        "features": {"features": "pixel"},
        "reference": {"name": "digits", "images": 1400},
        "rows": [row | {"figures": {"FD-pixel": figure}} | more],
        "summary": [],
        "notes": ["n is small"],
    }
