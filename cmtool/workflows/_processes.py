"""Several processes with one command: who is here, and one end for all.

`torchrun` and `accelerate launch` start them and tell each its place in the environment. They draw
without a word to each other; only at the end of a stage each hears whether another has failed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from cmtool.errors import CmtoolError, DeviceError

T = TypeVar("T")
WAIT = timedelta(days=7)
"""How long the first waits for the last; one that dies is noticed at once."""


@dataclass(frozen=True)
class Processes:
    """This process's place: number `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that begins, joins and speaks."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """A GPU for each process, by its place on the machine."""
        if self.world == 1 or str(chosen) != "cuda":
            return chosen
        local = int(os.environ.get("LOCAL_RANK", self.rank))
        return torch.device("cuda", local % torch.cuda.device_count())

    @contextmanager
    def together(self) -> Iterator[None]:
        """Runs its body in every process; if it fails in one, it fails in all.

        Raises:
            CmtoolError: What another process said, or that it ended without a word.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        if self.world > 1:
            self._tell(error)
        if error is not None:
            raise error

    def as_first(self, value: T) -> T:
        """The first process's value, in all: so that all go the same way."""
        if self.world == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told, 0)
        return told[0]

    def _tell(self, error: Exception | None) -> None:
        mine = None
        if isinstance(error, CmtoolError):
            mine = (error.message, error.hint, error.exit_code)
        elif error is not None:
            mine = (str(error) or type(error).__name__, None, 1)
        told: list[tuple[str, str | None, int] | None] = [None] * self.world
        try:
            distributed.all_gather_object(told, mine)
        except RuntimeError:
            told = [("another process ended without a word", None, 1)]
        if error is not None:
            return
        for rank, theirs in enumerate(told):
            if theirs is not None:
                message, hint, code = theirs
                place = f"process {rank}: " if len(told) == self.world else ""
                heard = DeviceError(place + message, hint)
                heard.exit_code = code
                raise heard


@contextmanager
def processes() -> Iterator[Processes]:
    """Meets the other processes that the environment tells of, if there are any.

    Raises:
        DeviceError: They cannot meet.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world == 1:
        yield Processes()
        return
    known = distributed.is_initialized()
    try:
        if not known:
            distributed.init_process_group("gloo", timeout=WAIT)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"{world} processes, but they cannot meet: {str(error).splitlines()[0]}",
            "start them with torchrun or accelerate launch, or unset WORLD_SIZE",
        ) from None
    try:
        yield Processes(rank, world)
    finally:
        if not known:
            distributed.destroy_process_group()
