"""Recordings of a store are opened side by side, and come in order, each with its own error."""

import io
import itertools
import threading

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sdhubert_ray.corpus.ahead import open_ahead

AT_ONCE = 8


class Waiting(MemoryFileSystem):
    """A store that gives nothing before so many have asked at once."""

    protocol = "waiting"
    asking = itertools.count(1)
    all_there = threading.Event()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("waiting://"))

    def cat_file(self, path, start=None, end=None, **options):
        if next(self.asking) == AT_ONCE:
            self.all_there.set()
        assert self.all_there.wait(60)
        return super().cat_file(path, start, end)


@pytest.fixture
def place():
    """Puts bytes into the store, and tells how they are opened."""
    fsspec.register_implementation("waiting", Waiting, clobber=True)

    def put(name, data):
        MemoryFileSystem().pipe_file(f"/{name}", data)
        return f"waiting://{name}", None, None, None, len(data)

    yield put
    MemoryFileSystem.store.clear()


def test_many_are_fetched_at_once_and_come_in_order(place):
    """Else the store gives nothing, and its patience ends."""
    wanted = [bytes([number]) * (number + 1) for number in range(5 * AT_ONCE)]
    places = [place(f"ahead/{number}", data) for number, data in enumerate(wanted)]
    found = []
    for opening in open_ahead(places):
        with opening() as file:
            found.append(file.read())
    assert found == wanted


def test_what_is_not_there_is_told_in_its_place(tmp_path):
    MemoryFileSystem().pipe_file("/there", b"abc")
    (tmp_path / "local").write_bytes(b"xyz")
    places = [("memory://there", None, None, None, 3), ("memory://gone", None, None, None, None)]
    places += [(str(tmp_path / "local"), None, None, None, None), (str(tmp_path / "gone"), None, None, None, None)]
    first, second, third, fourth = open_ahead(places)
    for opening, wanted in ((first, b"abc"), (third, b"xyz")):
        with opening() as file:
            assert file.read() == wanted
    for opening in (second, fourth):
        with pytest.raises(FileNotFoundError):
            opening()


def test_what_has_come_and_is_not_asked_for_is_closed(monkeypatch):
    opened = []

    def keep(*place):
        opened.append(io.BytesIO(b"x"))
        return opened[-1]

    monkeypatch.setattr("sdhubert_ray.corpus.ahead.open_audio", keep)
    openings = open_ahead([(f"memory://ahead/{number}", None, None, None, 1) for number in range(40)])
    with next(openings)() as first:
        while len(opened) < 17:  # the first, and 16 ahead
            pass
        openings.close()
        assert not first.closed
    while not all(file.closed for file in opened):  # those that were just being opened a moment later
        pass


def test_whoever_stops_leaves_the_rest_unopened():
    places = [(f"memory://ahead/{number}", None, None, None, 1) for number in range(100)]
    MemoryFileSystem().pipe_file("/ahead/0", b"x")
    openings = open_ahead(places)
    assert isinstance(next(openings)(), io.BytesIO)
    openings.close()
    assert list(openings) == []


def test_local_files_are_opened_when_they_are_asked_for(tmp_path):
    path = tmp_path / "late"
    (opening,) = open_ahead([(str(path), None, None, None, None)])
    path.write_bytes(b"now")
    with opening() as file:
        assert file.read() == b"now"
    assert list(open_ahead([])) == []
