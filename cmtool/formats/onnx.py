"""One ONNX file: the denoiser, or a sampler of some steps in one graph."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from cmtool.formats import _graph
from cmtool.formats.base import Format, Pair, Run, Source, module, refuse

_MOST = 2_000_000_000
"""Bytes of weights in one file; protobuf ends at 2^31."""


@dataclass(frozen=True)
class Onnx(Format):
    """A graph for onnxruntime, TensorRT, OpenVINO, CoreML; any batch; the noise is an input."""

    suffix: ClassVar[str] = ".onnx"
    title: ClassVar[str] = "one file, for onnxruntime and other runtimes"
    needs: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    sampler: ClassVar[bool] = True

    def check(self, source: Source) -> None:
        _graph.check("onnx", source)
        size = sum(t.nbytes for t in source.denoiser.network.state_dict().values())
        if size > _MOST:
            why = "an ONNX file ends at 2 GB"
            raise refuse("onnx", f"a network of {size / 1e9:.1f} GB", why, "cmtool export pt2")

    def write(self, source: Source, path: Path) -> None:
        with warnings.catch_warnings():  # About the names of axes and about torch's own rules.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _graph.program(source),
                (),
                path,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=_graph.names(source),
                output_names=["image"],
            )

    def open(self, source: Source, path: Path) -> Run:
        """The file in onnxruntime, with as many threads as torch has."""
        runtime = module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = _graph.names(source)

        def run(*values: Tensor) -> Tensor:
            arrays = [value.numpy() for value in values]
            (image,) = session.run(None, dict(zip(inputs, arrays, strict=True)))
            return torch.from_numpy(image)

        return run

    def pairs(self, source: Source, path: Path) -> list[Pair]:
        return [_graph.pair("onnxruntime", source, self.open(source, path))]

    def usage(self, source: Source, name: str) -> str:
        given = ", ".join(f'"{key}": {key}' for key in _graph.names(source))
        return (
            f'```python\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession("{name}")\n'
            f'image = session.run(["image"], {{{given}}})[0]\n```\n\n{_graph.inputs(source)}'
        )
