"""Waits in tests: a clock that goes only while somebody sleeps by it, and patience with what really takes time."""

import time


class Clock:
    """What a module needs of `time`: a wait of a minute is seen, and takes none.

    Put it there with `monkeypatch.setattr(module, "time", Clock())`.

    Attributes:
        now: seconds since it was made.
        waits: how long was slept each time, seconds.
    """

    def __init__(self):
        self.now = 0.0
        self.waits = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.waits.append(seconds)
        self.now += seconds


class Deadline:
    """The end of one's patience with another thread or process: a limit, long enough for a busy machine."""

    def __init__(self, seconds=120.0):
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def look_again(self):
        """Wait a moment, to look again whether it is done. Fails when it has taken too long."""
        assert time.monotonic() < self._end, f"nothing has happened for {self._seconds:.0f} s"
        time.sleep(0.01)
