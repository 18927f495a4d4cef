"""Work in several threads, in each of which torch computes alone, and imports that nobody interrupts."""

import contextlib
import importlib
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

_beginning = threading.Lock()


def import_whole(name: str) -> None:
    """Import a module that needs torch, and be it that this is interrupted: the interrupt comes after it.

    Ray cancels a task by an interrupt of the main thread, and gives the process to other tasks. Where torch was
    imported by half it cannot be imported again: it defines types in C++, once.
    """
    with _interrupted_later():
        importlib.import_module(name)


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Hold back what interrupts the main thread to the end; other threads nobody interrupts."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    held: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: held.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(signal.SIGINT, held[0])


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads, in each of which torch computes with that thread alone.

    Whole tasks side by side wait for each other less than the parts of every operation do: where other processes take
    the cores, a late thread holds up its own task alone.
    """
    import torch  # it takes seconds, and not everybody here needs it

    all_there = threading.Barrier(count)

    def begin() -> None:
        torch.get_num_threads()  # a thread's first look sets its number to that of the process: let it be past
        torch.set_num_threads(1)
        all_there.wait()

    with ThreadPoolExecutor(count) as pool:
        # One pool at a time begins: meanwhile the number of the process, which threads that begin elsewhere take, is 1.
        _beginning.acquire()
        before = torch.get_num_threads()
        try:
            for started in [pool.submit(begin) for _ in range(count)]:
                started.result()
        except BaseException:
            all_there.abort()  # those that wait for a thread that could not be started
            raise
        finally:
            torch.set_num_threads(before)  # of threads that begin elsewhere; those of the pool keep theirs
            _beginning.release()
        yield pool
