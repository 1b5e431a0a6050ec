"""Training batches addressed by (seed, step), so that going on with a run needs no skipping.

The images of all epochs stand in one endless row: epoch e is a permutation drawn from (seed, e),
and step k takes the places k B .. (k + 1) B - 1 of that row, B the global batch size. Processes,
and the micro-batches within a process, take contiguous slices of it, so the images and flips of a
step are the same however the work is divided. torch's generators are not touched.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from cmtool.data.base import ImageSet, Indices, Pixels
from cmtool.errors import DataError
from cmtool.images import from_uint8
from cmtool.tensors import Batch

_ORDER, _FLIPS = 0, 1
_Address = tuple[int, int, int]


class Loader:
    """Endless batches of one process of `world`.

    Args:
        data: The images.
        batch_size: Images in a step over all processes, B.
        seed: >= 0; with the step it fixes every batch.
        flip: Mirror each image left to right with probability 1/2.
        rank: This process, 0 .. world - 1.
        world: Number of processes.

    Raises:
        DataError: The data set is empty, or `batch_size` does not split over the processes.

    Example:
        >>> from cmtool.data.catalog import open_data
        >>> loader = Loader(open_data("digits"), batch_size=16, seed=0, flip=False)
        >>> loader.batch(0).x.shape
        torch.Size([16, 1, 8, 8])
    """

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        seed: int,
        flip: bool,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(data) == 0:
            raise DataError(f"data set '{data.name}' has no images")
        if seed < 0:
            raise DataError(f"seed must be 0 or more, got '{seed}'")
        _check_split(batch_size, world, "processes")
        self.data, self.batch_size, self.seed, self.flip, self.rank, self.world = (
            data,
            batch_size,
            seed,
            flip,
            rank,
            world,
        )
        self._orders: dict[int, Indices] = {}
        self._ahead: tuple[_Address, Future[Pixels]] | None = None
        self._thread = (
            None if data.in_memory else ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        )

    def batch(self, step: int, micro: int = 0, of: int = 1) -> Batch:
        """The images of one step, or of one of its micro-batches.

        Args:
            step: k >= 0.
            micro: Which micro-batch, 0 .. of - 1.
            of: Micro-batches in a step.

        Returns:
            x (B / world / of, C, H, W) float32 in [-1, 1] and label int64 or None, on the CPU.

        Raises:
            DataError: B does not split so, or an image cannot be read.
        """
        rows = self._rows(micro, of)
        indices = self.indices(step)[rows]
        pixels = self._read((step, micro, of), indices)
        if self.flip:
            flipped = self.flips(step)[rows]
            pixels[flipped] = pixels[flipped][..., ::-1]
        labels = self.data.labels
        return Batch(
            from_uint8(torch.from_numpy(pixels)),
            None if labels is None else torch.from_numpy(labels[indices]),
        )

    def indices(self, step: int) -> Indices:
        """Which images the step takes, over all processes: (B,)."""
        size = len(self.data)
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        epochs = places // size
        wanted = range(int(epochs[0]), int(epochs[-1]) + 1)
        self._orders = {epoch: self._orders.get(epoch, _NO_ORDER) for epoch in wanted}
        chosen = np.empty(self.batch_size, dtype=np.int64)
        for epoch in wanted:
            if self._orders[epoch] is _NO_ORDER:
                self._orders[epoch] = _random(self.seed, _ORDER, epoch).permutation(size)
            here = epochs == epoch
            chosen[here] = self._orders[epoch][places[here] % size]
        return chosen

    def flips(self, step: int) -> NDArray[np.bool_]:
        """Which images of the step are mirrored, over all processes: (B,)."""
        return _random(self.seed, _FLIPS, step).random(self.batch_size) < 0.5

    def _rows(self, micro: int, of: int) -> slice:
        """This process's, and that micro-batch's, part of the step's row."""
        what = "processes" if of == 1 else f"processes x {of} micro-batches"
        _check_split(self.batch_size, self.world, what, of)
        size = self.batch_size // (self.world * of)
        start = (self.rank * of + micro) * size
        return slice(start, start + size)

    def _read(self, address: _Address, indices: Indices) -> Pixels:
        """The images now, and where that means decoding, the next ones already on their way."""
        if self._thread is None:
            return self.data.images(indices)
        ahead, self._ahead = self._ahead, None
        pixels = ahead[1].result() if ahead and ahead[0] == address else self.data.images(indices)
        step, micro, of = address
        following = (step, micro + 1, of) if micro + 1 < of else (step + 1, 0, of)
        next_indices = self.indices(following[0])[self._rows(following[1], of)]
        self._ahead = (following, self._thread.submit(self.data.images, next_indices))
        return pixels


_NO_ORDER: Indices = np.empty(0, dtype=np.int64)


def _random(seed: int, purpose: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose, index])))


def _check_split(batch_size: int, world: int, what: str, of: int = 1) -> None:
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, got '{batch_size}'")
    parts = world * of
    if batch_size % parts:
        below = batch_size // parts * parts
        nearest = f"{below}, {below + parts}" if below else str(parts)
        raise DataError(
            f"batch_size {batch_size} does not split over {world} {what}", f"nearest: {nearest}"
        )
