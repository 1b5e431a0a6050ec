"""Random numbers that are addressed, not consumed.

An image's noise depends on (seed, image) alone, a training step's on (seed, step) alone. So results
do not change with the batch size, the number of processes or a restart, and nothing random has to
be saved.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_LABELS = 1
"""Second counter word of the stream that labels are drawn from; noise uses 0."""


def mix(*numbers: int) -> int:
    """One well-mixed 63-bit seed from several non-negative integers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class SeedRng:
    """One random stream per image, the same on every device and without torch.

    Draw k of image i at seed s is `Generator(Philox(key=s, counter=[0, 0, k,
    i])).standard_normal(shape, float32)` in numpy.

    Args:
        seed: s, non-negative.
        images: The images' numbers i.
        device: Where the draws are moved.
    """

    def __init__(
        self, seed: int, images: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        self.seed = seed
        self.images = images
        self.device = device
        self.draws = 0
        self._bits = np.random.Philox(key=seed)
        self._fresh = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def randn(self, shape: Sequence[int]) -> Tensor:
        """The next draw of every image: (n, *shape) float32."""
        drawn = np.empty((len(self.images), *shape), dtype=np.float32)
        for row, i in enumerate(self.images):
            self._at(0, self.draws, i).standard_normal(dtype=np.float32, out=drawn[row, ...])
        self.draws += 1
        return torch.from_numpy(drawn).to(self.device)

    def labels(self, num_classes: int) -> Tensor:
        """A uniform class for every image, (n,) int64; it does not disturb the noise."""
        drawn = [int(self._at(_LABELS, 0, i).integers(num_classes)) for i in self.images]
        return torch.tensor(drawn, dtype=torch.int64, device=self.device)

    def _at(self, *counter: int) -> np.random.Generator:
        """The generator, put to the start of a stream: a new one would take four times as long."""
        self._fresh["state"]["counter"][1:] = counter
        self._bits.state = self._fresh
        return self._generator


class StepRng:
    """The random numbers of one training step, one row per image of the global batch.

    Every process and every micro-batch draws all `batch` rows from the same generator and keeps its
    own, so that any split of a batch sees the numbers that one process would.

    Args:
        seed: The run's seed.
        step: The optimizer step.
        batch: Images in the global batch.
        rows: Which of them are here.
        device: Where to draw.
    """

    def __init__(
        self, seed: int, step: int, batch: int, rows: slice, device: torch.device | str = "cpu"
    ) -> None:
        self.batch = batch
        self.rows = rows
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(mix(seed, step))

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers: (rows, *shape) float32."""
        drawn = torch.randn(self.batch, *shape, generator=self._generator, device=self.device)
        return drawn[self.rows]

    def rand(self) -> Tensor:
        """Uniform numbers in [0, 1): (rows,) float32."""
        return torch.rand(self.batch, generator=self._generator, device=self.device)[self.rows]

    def position(self) -> Tensor:
        """Each row's place in the global batch, (rows,) in [0, 1); for shares of a batch that must
        not fluctuate."""
        return (torch.arange(self.batch, device=self.device) / self.batch)[self.rows]


def rng_state(device: torch.device) -> Tensor:
    """The state of torch's global generator on a device; dropout draws from it."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.get_rng_state()


@contextmanager
def replay(state: Tensor, device: torch.device) -> Iterator[None]:
    """Runs its body with an earlier `rng_state`, so that dropout drops the same units again.

    The body must draw as much as was drawn since `state` was taken; then the stream goes on as if
    nothing had happened.
    """
    after = rng_state(device)
    _set_rng_state(state, device)
    try:
        yield
    finally:
        _set_rng_state(after, device)


def _set_rng_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)
