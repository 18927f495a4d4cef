"""Recordings opened ahead of whoever decodes them: of a store, a request's wait is as long as decoding many of them."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import BinaryIO

from sdhubert_ray import storage
from sdhubert_ray.corpus.shards import open_audio

Place = tuple[str, str | None, int | None, int | None, int | None]
"""The arguments of `shards.open_audio`."""

_AHEAD = 16
"""Recordings that are opened at once; of small ones `storage.open_binary` has all bytes then, up to 8 MiB each."""


def open_ahead(places: Sequence[Place]) -> Generator[Callable[[], BinaryIO]]:
    """What opens each of some recordings, in order; those of stores are being opened already, 16 at once.

    Yields:
        for each a function that gives the file, to be closed, or raises as `shards.open_audio`.
    """
    if all(storage.is_local(uri) for uri, *_ in places):
        yield from (partial(open_audio, *place) for place in places)
        return
    pool, waiting = ThreadPoolExecutor(_AHEAD, "fetch"), deque[Future[BinaryIO]]()
    try:
        for place in places:
            waiting.append(pool.submit(open_audio, *place))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result
        while waiting:
            yield waiting.popleft().result
    finally:
        for future in waiting:  # nobody asks for them any more: they are not begun, or closed when they have come
            future.cancel()
            future.add_done_callback(_close)
        pool.shutdown(wait=False)


def _close(opened: "Future[BinaryIO]") -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()
