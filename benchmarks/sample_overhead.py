"""How much of `cmtool sample`'s time is spent in the network, and how much memory it takes.

    python benchmarks/sample_overhead.py MODEL [N ...]

Each row is a process of its own. `command` counts from its start to its end, with the imports and
the loading of the model, `drawing` from the request to the finished result. The network's calls are
timed in the same run, so the shares hold on a busy machine where the seconds do not. For one core:
`OMP_NUM_THREADS=1 taskset -c 0 python ...`. The target is 95 % at 50,000 images.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cmtool.denoiser import Denoiser
from cmtool.workflows import sample


def measure(model: str, n: int, out: Path) -> None:
    """Draws; prints the seconds and the peak memory as JSON."""
    seconds = {"network": 0.0, "drawing": 0.0}

    def timed(name: str, call: Any) -> Any:
        def run(*values: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*values, **more)
            finally:
                seconds[name] += time.perf_counter() - began

        return run

    Denoiser.raw = timed("network", Denoiser.raw)  # type: ignore[method-assign]
    sample.draw_sharded = timed("drawing", sample.draw_sharded)
    sample.sample_to_files(Path(model), sample.Request(n=n, out=out), device="cpu")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**seconds, "MiB": peak}))


def main(model: str, numbers: list[int]) -> None:
    """Prints a row for each kind of result and number of images."""
    print("| result | images | seconds | network / drawing | network / command | peak MiB |")
    print("|---|---|---|---|---|---|")
    for name in ("folder", "npz"):
        for n in numbers:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder, "o.npz" if name == "npz" else "o")
                words = [sys.executable, __file__, "--measure", model, str(n), str(out)]
                began = time.perf_counter()
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                command = time.perf_counter() - began
            took = json.loads(done.stdout.splitlines()[-1]) | {"command": command}
            shares = [took["network"] / took[whole] for whole in ("drawing", "command")]
            cells = " | ".join(f"{share:.1%}" for share in shares)
            row = f"| {name} | {n:,} | {took['command']:.1f} | {cells} | {took['MiB']:.0f} |"
            print(row, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        measure(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main(sys.argv[1], [int(n) for n in sys.argv[2:]] or [2000, 50_000])
