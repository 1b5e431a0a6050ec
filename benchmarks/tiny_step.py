"""Measures how much of the machine's matrix rate one training step of the network `tiny` reaches.

Both rates come from the same run, in turns, so the ratio holds where the times do not. A step is
forward, backward, AdamW and the zeroing of gradients at 32 pixels, batch 64; its operations are
counted as three times those of the forward pass. From the repository's root, with cmtool installed:
`python benchmarks/tiny_step.py`.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cmtool.networks.tiny import Tiny

BATCH, SIZE, ROUNDS = 64, 32, 5


def seconds(run: Callable[[], object], at_least: float = 1.0) -> float:
    """Mean seconds of one call, over enough calls to fill `at_least` seconds."""
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < at_least:
        run()
        calls += 1
    return spent / calls


def training_step(network: nn.Module, precision: torch.dtype, compiled: bool) -> Callable[[], None]:
    """A full step on fixed data."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(network) if compiled else network
    x, c_noise = torch.randn(BATCH, 3, SIZE, SIZE), torch.randn(BATCH) / 2

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            output = forward(x, c_noise)
        (output.float() - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Prints one line per way to run."""
    torch.manual_seed(0)
    network = Tiny().build(SIZE, 3, 0)
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 3, SIZE, SIZE), torch.zeros(1))
    flops = 3 * BATCH * counter.get_total_flops()
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    print(f"tiny, {millions:.1f} M parameters, batch {BATCH}, {flops / 1e9:.0f} GFLOP a step")
    for name, precision, compiled in (
        ("bf16 compiled", torch.bfloat16, True),
        ("bf16 eager", torch.bfloat16, False),
        ("float32 compiled", torch.float32, True),
        ("float32 eager", torch.float32, False),
    ):
        a, b = torch.randn(2, 2048, 2048).to(precision)
        start = time.perf_counter()
        step = training_step(network, precision, compiled)
        for _ in range(3):
            step()
        start_up = time.perf_counter() - start
        product = partial(torch.mm, a, b)
        rounds = [(seconds(step), seconds(product)) for _ in range(ROUNDS)]
        step_s, product_s = (sorted(column)[ROUNDS // 2] for column in zip(*rounds, strict=True))
        rate, matrix_rate = flops / step_s / 1e12, 2 * 2048**3 / product_s / 1e12
        print(
            f"{name:17s} {BATCH / step_s:6.1f} images/s  {rate:.2f} of {matrix_rate:.2f} TFLOP/s = "
            f"{rate / matrix_rate:.0%} of the matrix rate  (start {start_up:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
