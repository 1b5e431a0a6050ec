"""Runs a model's network in another runtime, from a program that is built once and kept."""

import hashlib
import json
import os
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from cmtool import registry
from cmtool.data.places import cache_dir
from cmtool.denoiser import Denoiser
from cmtool.errors import DataError, DeviceError, ExportError, RecipeError, Say, did_you_mean
from cmtool.formats.base import Run, Source
from cmtool.workflows._export_check import compare, table
from cmtool.workflows._sharded import fingerprint
from cmtool.workflows.load import Model

ENGINES = ("torch", "onnx", "aoti")


class Compiled(Denoiser):
    """A denoiser whose answers another runtime gives.

    Args:
        model: What it is otherwise.
        run: (x, sigma, label if there are classes) to images.
        engine: The runtime's name.
    """

    def __init__(self, model: Denoiser, run: Run, engine: str) -> None:
        super().__init__(
            *(model.network, model.precond, model.schedule, model.kind, model.image_shape),
            *(model.classes, model.grid, model.guidable, model.null_class, model.times),
        )
        self.run = run
        self.engine = engine

    def forward(
        self,
        x: Tensor,
        t: Tensor | float,
        label: Tensor | None = None,
        *,
        augment: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """See `Denoiser.forward`.

        Raises:
            RecipeError: A weight of guidance is given: programs are written without.
        """
        if augment is not None or guidance is not None:
            raise RecipeError(
                f"--engine {self.engine} cannot tell the network a weight of guidance",
                "--engine torch, or drop --guidance",
            )
        sigma = torch.as_tensor(t, dtype=torch.float32).expand(x.shape[0])
        if not self.num_classes:
            return self.run(x.float(), sigma)
        known = torch.full((x.shape[0],), -1) if label is None else label
        return self.run(x.float(), sigma, known)


def check_engine(engine: str) -> None:
    """Checks that an engine is there.

    Raises:
        RecipeError: It is unknown or not installed.
    """
    if engine not in ENGINES:
        guess = did_you_mean(engine, ENGINES)
        raise RecipeError(f"unknown engine '{engine}'{guess}", f"--engine {' or '.join(ENGINES)}")
    if engine == "torch":
        return
    needs = registry.load("formats", engine).needs
    if missing := [name for name in needs if find_spec(name) is None]:
        raise RecipeError(
            f"engine '{engine}' needs {', '.join(missing)}, which is not installed",
            f"pip install 'cmtool[{engine}]'",
        )


def on_engine(opened: Model, engine: str, device: torch.device, say: Say) -> Denoiser:
    """The model on its device, its calls answered by an engine.

    Another engine than torch needs a program, which is built, compared with the model and kept in
    the cache folder under the hash of all that decides it.

    Raises:
        DeviceError: The engine does not run there, or cannot build here.
        ExportError: What was built computes something else.
        DataError: The cache cannot be written.
    """
    model = opened.denoiser
    if engine == "torch":
        return model.to(device)
    if device.type != "cpu":
        raise DeviceError(f"--engine {engine} runs on the CPU, not on '{device}'", "--device cpu")
    kind = registry.load("formats", engine)()
    source = Source(opened)
    path = cache_dir() / "engines" / f"{_key(model, engine, kind.needs)}{kind.suffix}"
    if not path.is_file():
        kind.check(source)
        say(f"building the program for --engine {engine}, once: '{path}'")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as folder:
                built = Path(folder, path.name)
                kind.write(source, built)
                rows = compare(kind, source, kind.pairs(source, built))
                if wrong := [row for row in rows if not row.passed]:
                    raise ExportError(
                        f"--engine {engine} computes something else than the model\n{table(wrong)}",
                        "--engine torch",
                    )
                os.replace(built, path)
        except OSError as error:
            raise DataError(
                f"cannot write '{path}': {error.strerror or error}",
                "another folder in the environment variable CMTOOL_CACHE",
            ) from None
    run: Run = kind.open(source, path)
    return Compiled(model, run, engine).eval()


def _key(model: Denoiser, engine: str, needs: tuple[str, ...]) -> str:
    """Hash of all that a program is made from and for."""
    versions = {name: version(name) for name in ("cmtool", "torch", *needs)}
    machine = torch.backends.cpu.get_cpu_capability()
    made = [engine, versions, machine, fingerprint(model), model.image_shape, model.num_classes]
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]
