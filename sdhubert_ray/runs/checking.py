"""A check that takes seconds, made beside other work."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Item = TypeVar("Item")


class CheckBeside:
    """A check in a thread of its own: what loads torch there takes no time of who reads files or starts Ray."""

    def __init__(self, check: Callable[[], None]) -> None:
        """`check` raises what it has to refuse."""
        self._check = check
        self._outcome: Future[None] | None = None

    def begin(self) -> None:
        """Begin, if that is not done."""
        if self._outcome is None:
            self._outcome = Future()
            threading.Thread(target=self._run, args=(self._outcome,), name="check").start()

    def wait(self) -> None:
        """Wait for the end of the check. Raises what it raised."""
        self.begin()
        if self._outcome is not None:
            self._outcome.result()

    def unless_refused(self, items: Iterable[Item]) -> Iterator[Item]:
        """Items, as long as nothing is refused. Raises what the check raised, as soon as it has."""
        for item in items:
            if self._outcome is not None and self._outcome.done():
                self._outcome.result()
            yield item

    def _run(self, outcome: Future[None]) -> None:
        try:
            self._check()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)
