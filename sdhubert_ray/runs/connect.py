"""Joining a Ray cluster, or starting one on this machine, and what devices there are."""

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import ray
import ray.data
from ray.exceptions import RayError

from sdhubert_ray.errors import BusyError, UserError, first_line
from sdhubert_ray.events import SAID_ALWAYS

_CONNECT_SECONDS = 5.0
_STDERR, _SIEVE_SECONDS = 2, 2.0
_TOKENS = "ray._private.authentication.authentication_token_setup"
# The name of a socket has 107 bytes at most; this comes behind the folder, with process numbers of seven digits.
_LONGEST_FOLDER = 107 - len("/ray/session_2026-11-30_06-28-08_448356_4194304/sockets/plasma_store")
_EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception)): (.+)$", re.MULTILINE)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Join the cluster at `address`, or the one this process is in already, or start one on this machine."""
    ray.data.DataContext.get_current().enable_progress_bars = False  # the commands draw their own
    if not _tells_all():
        logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns where its bars are off
    if ray.is_initialized():
        yield
        return
    if address:
        _check_reachable(address)
    with _start_or_join(address):
        yield


def _tells_all() -> bool:
    """Whether what Ray tells of itself is to be seen, as with --debug."""
    return logging.getLogger("sdhubert_ray").isEnabledFor(logging.DEBUG)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep the one "error" off stderr that Ray's core logs in every run; whatever else it says there is let through.

    It is that actors whose arguments are in the object store may fail to start again: those of Ray Data always are. The
    core knows no way to be told so, and writes to descriptor 2. Commands give Python's stderr another one: only there,
    as a bar would wait for the ends of its lines, it goes through a sieve, a process that outlives a crash of this one.
    """
    if _tells_all():
        yield
        return
    logging.getLogger(_TOKENS).addFilter(_is_no_token)
    if _is_pythons(_STDERR):
        yield
        return
    before = os.dup(_STDERR)
    command = ["grep", "--line-buffered", "--text", "--invert-match", "--fixed-strings", SAID_ALWAYS]
    sieve = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=before, start_new_session=True)
    assert sieve.stdin is not None
    os.dup2(sieve.stdin.fileno(), _STDERR)
    sieve.stdin.close()
    try:
        yield
    finally:
        os.dup2(before, _STDERR)
        os.close(before)
        try:
            sieve.wait(_SIEVE_SECONDS)
        except subprocess.TimeoutExpired:  # some process of Ray has the other end still
            sieve.kill()
            sieve.wait()


def _is_no_token(record: logging.LogRecord) -> bool:
    """Leaves out that a Ray of our own asks for a token, as it is to; one that asks for none is told."""
    return "authentication is enabled" not in record.getMessage()


def _is_pythons(descriptor: int) -> bool:
    """Whether Python's stderr is this descriptor, or none at all."""
    try:
        return sys.stderr.fileno() == descriptor
    except (OSError, ValueError):  # as io tells it
        return True


@contextlib.contextmanager
def _start_or_join(address: str | None) -> Iterator[None]:
    with contextlib.ExitStack() as places:
        places.enter_context(_hushed())
        place = None if address else places.enter_context(_short_folder())
        _init(address, place)
        try:
            yield
        finally:
            ray.shutdown()


def _init(address: str | None, place: str | None) -> None:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
        else:
            import joblib

            # What a container or an affinity leaves of them. Two at least: with a GPU its encoder holds one for good,
            # the other stages share the rest.
            cpus = max(2, joblib.cpu_count())
            ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level=logging.WARNING, _temp_dir=place)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        reason = first_line(error)
        if not address:
            raise UserError(f"Ray cannot be started on this machine ({reason})") from error
        raise BusyError(
            f"{_named(address)} cannot be reached ({reason}); if it asks for a token, set RAY_AUTH_MODE=token and give "
            "the token as Ray wants it"
        ) from error
    except Exception as error:
        if type(error) is not Exception:  # which Ray raises where it does not start in time
            raise
        reason = first_line(error)
        raise BusyError(f"Ray could not be started on this machine ({reason}); it may be too busy now") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own, which exits with 15


@contextlib.contextmanager
def _short_folder() -> Iterator[str | None]:
    """A short name for the folder of temporary files, which Ray has its sockets in; None where it is short enough."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(folder)) <= _LONGEST_FOLDER:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="sdhubert-", dir="/tmp") as short:
        link = Path(short) / "t"
        link.symlink_to(Path(folder).absolute(), target_is_directory=True)
        yield str(link / "ray")


def explain(error: Exception) -> str:
    """What lies beneath an error of Ray or of Ray Train.

    The causes of an exception do not survive the way from the worker, but for the text of their traceback: the first
    exception named in it is the one that began.
    """
    text = str(error)
    first = _EXCEPTION.search(text)
    if first is None:
        return f"Ray gave up: {text.strip().splitlines()[0]}"
    kind, message = first.groups()
    return message if kind.startswith("sdhubert_ray.") else f"{kind}: {message}"


def _check_reachable(address: str) -> None:
    """Ray itself tries a dead address for minutes."""
    host, separator, port = address.rpartition("://")[2].partition(":")
    if not separator or not port.isdigit():
        return  # `auto`, or something else that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise BusyError(f"{_named(address)} cannot be reached ({error.strerror or error})") from error


def _named(address: str) -> str:
    given = " (of RAY_ADDRESS)" if os.environ.get("RAY_ADDRESS") == address else ""
    return f"the Ray cluster at {address}{given}"
