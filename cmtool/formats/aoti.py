"""One AOTInductor package: the program as machine code of this kind of machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from cmtool.errors import DeviceError
from cmtool.formats import _graph
from cmtool.formats.base import Format, Pair, Run, Source, module


@dataclass(frozen=True)
class Aoti(Format):
    """Machine code that torch loads without Python's tracing; any batch; the noise is an input."""

    suffix: ClassVar[str] = ".pt2"
    title: ClassVar[str] = "machine code for this kind of CPU, for torch's AOTInductor"
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    sampler: ClassVar[bool] = True

    def check(self, source: Source) -> None:
        _graph.check("aoti", source)
        try:
            module("torch._inductor.cpp_builder").get_cpp_compiler()
        except RuntimeError:
            raise DeviceError(
                "format 'aoti' needs a C++ compiler, and there is none here",
                "install g++, or name one in the environment variable CXX; pt2 needs none",
            ) from None

    def write(self, source: Source, path: Path) -> None:
        program = _graph.program(source)
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))

    def open(self, source: Source, path: Path) -> Run:
        """The package, given tensors of any layout: by itself it reads those that are not
        contiguous wrongly, without a word."""
        package = torch._inductor.aoti_load_package(str(path))

        def run(*values: Tensor) -> Tensor:
            image: Tensor = package(*(value.contiguous() for value in values))
            return image

        return run

    def pairs(self, source: Source, path: Path) -> list[Pair]:
        return [_graph.pair("AOTInductor", source, self.open(source, path))]

    def usage(self, source: Source, name: str) -> str:
        given = ", ".join(f"{key}.contiguous()" for key in _graph.names(source))
        return (
            f'```python\nimport torch\n\nrun = torch._inductor.aoti_load_package("{name}")\n'
            f"image = run({given})\n```\n\n"
            f"A tensor that is not contiguous is read wrongly, without an error. The file runs on "
            f"CPUs like the one that made it, with this version of torch, {torch.__version__}.\n\n"
            f"{_graph.inputs(source)}"
        )
