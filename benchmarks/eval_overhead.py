"""What `cmtool eval fid` adds to the feature network's own time: reading, resizing, statistics.

    python benchmarks/eval_overhead.py [N] [SIDE]

A folder of N (1,024) random PNG files of SIDE (32) pixels is measured against a statistics file, by
the protocol `clean`, whose resizing is the dearest. The network has random weights and Inception's
shape (torchvision's `inception_v3`), as Inception's own file may not be had; only its time counts.
Both times come from one run, so the ratio holds on a busy machine where the seconds do not. The
target is 5 % with 2 threads.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.models import inception_v3

from cmtool import images
from cmtool.metrics.features.base import Extractor
from cmtool.metrics.features.inception import DIM, MODES, _Inception
from cmtool.metrics.frechet import Moments
from cmtool.metrics.references import write_statistics
from cmtool.workflows import evaluate


class Timed(nn.Module):
    """Random weights; counts the seconds that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = inception_v3(weights=None, aux_logits=False, init_weights=False).eval()
        self.net.fc = nn.Identity()
        self.seconds = 0.0

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, 299, 299) -> features."""
        began = time.perf_counter()
        features = self.net(x)
        self.seconds += time.perf_counter() - began
        return features


def main(n: int, side: int) -> None:
    """Prints the times and their ratio."""
    rng = np.random.default_rng(0)
    network = Timed()
    facts = {"features": "inception", "weights": "random", "resize": MODES["clean"][1]}
    extractor = Extractor("inception", DIM, 0, _Inception(network, "clean"), facts, random=True)
    evaluate.open_features = lambda *_, **__: extractor
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CMTOOL_CACHE"] = f"{folder}/cache"
        pixels = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
        for i, content in enumerate(images.pngs(pixels)):
            path = Path(folder, "images", f"{i:05d}.png")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        reference = Moments.of(rng.normal(size=(3 * DIM, DIM)))
        write_statistics(Path(folder, "statistics.npz"), reference, {"features": facts})
        request = evaluate.Request(
            images=(f"{folder}/images",),
            data=f"{folder}/statistics.npz",
            out=Path(folder, "report.json"),
            bootstrap=0,
            device="cpu",
        )
        extractor(pixels[:32].transpose(0, 3, 1, 2))  # Warms up.
        network.seconds = 0.0
        began = time.perf_counter()
        evaluate.evaluate(request)
        whole = time.perf_counter() - began
    print(f"{n:,} images of {side}x{side}, {torch.get_num_threads()} threads")
    print(f"network {network.seconds:.1f} s, all {whole:.1f} s")
    print(f"added {whole / network.seconds - 1:.1%} of the network's time")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*given, *(1024, 32)[len(given) :])
