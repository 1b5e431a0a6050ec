"""How long `cmtool --help` and the help of each command take, against a Python that does nothing.

    python benchmarks/help_time.py

The median of ten starts each, taken in turns so that a busy moment hits all alike. The target is
0.3 s.
"""

import statistics
import subprocess
import sys
import time

STARTS = 10
TARGET_SECONDS = 0.3
COMMANDS = ("train", "distill", "sample", "info")


def main() -> None:
    cmtool = [sys.executable, "-m", "cmtool"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "cmtool --help": [*cmtool, "--help"],
        **{f"cmtool {name} --help": [*cmtool, name, "--help"] for name in COMMANDS},
        "cmtool --list losses": [*cmtool, "--list", "losses"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for words in commands.values():  # Fills the caches of the disk.
        run(words)
    for _ in range(STARTS):
        for name, words in commands.items():
            seconds[name].append(run(words))
    print(f"{'command':24} {'median':>8} {'fastest':>8}   target {TARGET_SECONDS} s")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        note = "ok" if median < TARGET_SECONDS else "TOO SLOW"
        print(f"{name:24} {median:6.3f} s {min(taken):6.3f} s   {note}")


def run(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
