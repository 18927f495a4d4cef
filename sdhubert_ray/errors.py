"""The ways in which work is refused: a mistake of the caller, an output in use, audio that cannot be used."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake in the command, the configuration or the input that its author can mend.

    The message is one sentence: which file or key, what is wrong, what to do. Before work has begun the command line
    prints it and exits with 2, having written nothing.
    """


class BusyError(Exception):
    """What is needed is in use or out of reach: the same command may do later what it cannot do now (exit code 1).

    Another run is at work on the output, or there is no way to the cluster.
    """


class AudioError(Exception):
    """One file that cannot be decoded; the message becomes the `error` of its row, status `unreadable`."""


def first_line(error: Exception) -> str:
    """What an error says, its first line, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def require_choice(key: str, value: str, known: Sequence[str]) -> None:
    """Refuse a value that is none of those that are known.

    Args:
        key: the option, as the user writes it.
        value: what was given.
        known: what it may be.

    Raises:
        ValueError: the options that hold it become a `UserError` where they are put together.
    """
    if value not in known:
        raise ValueError(f"{key} is {value!r}; it has to be one of {', '.join(known)}")
