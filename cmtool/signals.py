"""Ctrl-C and SIGTERM as a request to finish the step, not as a crash."""

import signal
import threading
from types import FrameType, TracebackType


class Signals:
    """While active, the first SIGINT or SIGTERM is only noted in `caught`; a second one acts as
    usual."""

    def __init__(self) -> None:
        self.caught = 0
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        # Only the main thread may set handlers; in a notebook's worker signals act as usual.
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.caught = signum
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._previous.clear()
