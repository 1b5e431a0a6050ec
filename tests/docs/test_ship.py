"""`recipes/ship.py` trains, distils, refines and packs, and goes on where it was stopped."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from by_path import module_at
from doc_pages import ROOT
from doc_world import SHORT, TINY

from cmtool import checkpoint, shipped
from cmtool.tensor_file import read_tensors


@pytest.fixture
def ship(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with small networks, two steps a training, and a package of its own to fill."""
    module = module_at(ROOT / "recipes" / "ship.py")
    really = module._cmtool

    def shortly(command: str, *words: object) -> None:
        short = SHORT if command in ("train", "distill") else ()
        really(command, *words, *short, *(TINY if command == "train" else ()))

    monkeypatch.setattr(module, "_cmtool", shortly)
    monkeypatch.setattr(shipped, "FOLDER", scratch / "package")
    shipped.FOLDER.mkdir()
    return module


def test_the_whole_chain_of_cifar10(ship: ModuleType, capsys: pytest.CaptureFixture[str]):
    ship.main("cifar10", None)
    file = shipped.FOLDER / "cifar10.safetensors"
    meta, recipe = checkpoint.parse_config(checkpoint.read_header(file) or "", str(file))
    assert meta.kind == "consistency"
    assert meta.step == recipe.train.steps == 2
    assert meta.origin["recipe"] == "cifar10-cpu/cd-refine"
    assert meta.origin["teacher"] == "cifar10-cpu/dsm"
    assert len(meta.times["colorize"]) == 80
    weights = read_tensors(file)
    assert {value.dtype for value in weights.values() if value.ndim > 1} == {torch.float16}

    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ cmtool")]
    assert [line.split()[2:4] for line in said] == [
        ["train", "cifar10-cpu/dsm"],
        ["distill", "cifar10-cpu/cd"],
        ["distill", "cifar10-cpu/cd-refine"],
        ["distill", "cifar10-cpu/cd-refine"],
        ["export", "safetensors"],
    ]
    assert " --init runs/ship/cifar10-refined-1 " in said[3]

    runs = [*Path("runs/ship").rglob("log.jsonl")]
    before = {path: path.read_bytes() for path in runs}
    assert len(before) == 4
    file.unlink()
    ship.main("cifar10", None)  # Finished runs are not made again.
    assert {path: path.read_bytes() for path in runs} == before
    assert all(torch.equal(value, weights[key]) for key, value in read_tensors(file).items())
