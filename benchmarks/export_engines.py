"""What runs a network fastest: torch as it is, torch.compile, AOTInductor, onnxruntime, and
onnxruntime with weights in 8 bits.

    python benchmarks/export_engines.py MODEL [--batch 1,64] [--rounds 7]

One denoiser, one evaluation. The engines take turns in every round, so that a busy machine slows
all alike; printed are the medians over the rounds of (time of torch) / (time of the engine), the
median milliseconds, and the largest difference from what torch answers. For one core:
`OMP_NUM_THREADS=1 taskset -c 0 python ...`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor

from cmtool import registry
from cmtool.formats.base import Source
from cmtool.workflows.load import open_model

Engine = Callable[..., Tensor]


def engines(source: Source, folder: Path) -> dict[str, Engine]:
    """Name to a function of the denoiser's inputs."""
    made: dict[str, Engine] = {"torch": source.denoiser}
    made["torch.compile"] = torch.compile(source.denoiser, dynamic=False)
    for name, title in (("aoti", "AOTInductor"), ("onnx", "onnxruntime")):
        kind = registry.load("formats", name)()
        path = folder / f"{name}{kind.suffix}"
        began = time.perf_counter()
        kind.write(source, path)
        print(f"{title}: built in {time.perf_counter() - began:.0f} s", flush=True)
        made[title] = kind.open(source, path)
    small = folder / "small.onnx"
    graph = onnx.load(folder / "onnx.onnx")
    del graph.graph.value_info[:]  # The quantizer infers shapes itself, and trips over these.
    told = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(graph, small, weight_type=QuantType.QUInt8, extra_options=told)
    made["onnxruntime, int8"] = registry.load("formats", "onnx")().open(source, small)
    return made


def measure(made: dict[str, Engine], inputs: list[Tensor], rounds: int) -> dict[str, list[float]]:
    """Seconds of every engine in every round, the first call left out; of one thread those that it
    had the core for, which other programs do not lengthen."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for run in made.values():
        run(*inputs)
    for _ in range(rounds):
        for name, run in made.items():
            began = clock()
            run(*inputs)
            seconds[name].append(clock() - began)
    return seconds


@torch.no_grad()
def main(model: Path, batches: list[int], rounds: int) -> None:
    """Prints a table."""
    source = Source(open_model(model))
    classes = source.denoiser.num_classes
    with tempfile.TemporaryDirectory() as folder:
        made = engines(source, Path(folder))
        print("\n| batch | engine | speed over torch | ms | largest difference |")
        print("|---|---|---|---|---|")
        for batch in batches:
            inputs = [torch.randn(batch, *source.denoiser.image_shape), torch.ones(batch)]
            inputs += [torch.arange(batch) % classes] if classes else []
            seconds = measure(made, inputs, rounds)
            expected = source.denoiser(*inputs)
            for name, run in made.items():
                pairs = zip(seconds["torch"], seconds[name], strict=True)
                ratio = statistics.median(base / own for base, own in pairs)
                took = statistics.median(seconds[name]) * 1000
                error = float((run(*inputs) - expected).abs().max())
                print(f"| {batch} | {name} | {ratio:.2f}x | {took:.1f} | {error:.1e} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch", default="1,64")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    main(given.model, [int(size) for size in given.batch.split(",")], given.rounds)
