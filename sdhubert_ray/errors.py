"""The two ways in which work is refused: a mistake of the caller, and audio that cannot be used."""


class UserError(Exception):
    """A mistake in the command, the configuration or the input that its author can mend.

    The message is one sentence: which file or key, what is wrong, what to do. The command line prints it
    and exits with 2, having written nothing.
    """


class AudioError(Exception):
    """One file that cannot be decoded; the message becomes the `error` of its row, status `unreadable`."""
