"""An interrupt of our own, which is no Ctrl-C."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class OwnInterrupt:
    """Leaves the block inside `with` by a KeyboardInterrupt in the main thread, when another thread sends it.

    It comes wherever Ctrl-C would come, and also where Ctrl-C is ignored, as in the background of a shell. Who handles
    Ctrl-C is not told of it; `sent` tells it from the real one. Left by a thread that is not the main one, it comes as
    Ctrl-C does.
    """

    def __init__(self) -> None:
        self.sent = False
        self._outside: Any = None  # a handler, or what `signal` has in its place

    def __enter__(self) -> Self:
        """Handle SIGINT; what handles it outside still gets those that are not ours."""
        if in_main_thread():
            self._outside = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put back what handles SIGINT outside."""
        if in_main_thread() and self._outside is not None:
            signal.signal(signal.SIGINT, self._outside)

    def send(self) -> None:
        """Interrupt the main thread, also in the midst of a system call."""
        self.sent = True
        main = threading.main_thread().ident
        assert main is not None  # it has begun
        signal.pthread_kill(main, signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.sent or self._outside is signal.SIG_DFL:
            raise KeyboardInterrupt
        if callable(self._outside):
            self._outside(number, frame)


def in_main_thread() -> bool:
    """Whether handlers of signals can be set here."""
    return threading.current_thread() is threading.main_thread()
