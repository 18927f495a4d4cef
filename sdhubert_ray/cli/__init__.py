"""The command line: `sdhubert segment`, `resegment`, `cluster`, `tokenize`, `evaluate`, `benchmark`, `train` and more.

Heavy imports happen inside the commands, so that `--help` and errors come at once.
"""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from sdhubert_ray.cli import (
    benchmark,
    cluster,
    evaluate,
    export,
    import_quantizer,
    manifest,
    resegment,
    segment,
    show,
    status,
    tokenize,
    train,
)
from sdhubert_ray.cli.console import EXIT_UNFINISHED, EXIT_USAGE, complain, interrupt, log_as
from sdhubert_ray.errors import BusyError, UserError

# What typer makes of an interrupt that nobody has taken: one before the work began.
_TYPER_INTERRUPTED = 130
_UNWRITABLE = (errno.ENOSPC, errno.EPIPE)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"sdhubert_ray {version('sdhubert_ray')}")
        raise typer.Exit


@app.callback()
def sdhubert(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Speech audio to syllables, with SD-HuBERT on Ray."""


app.command()(segment.segment)
app.command()(resegment.resegment)
app.command()(cluster.cluster)
app.command()(import_quantizer.import_quantizer)
app.command()(tokenize.tokenize)
app.add_typer(evaluate.evaluate, name="evaluate")
app.add_typer(benchmark.benchmark, name="benchmark")
app.command()(manifest.manifest)
app.command()(status.status)
app.command()(show.show)
app.command()(train.train)
app.command()(export.export)


def main() -> None:
    """Run the command line; what is wrong becomes one sentence, and exit code 2, or 1 if it may pass by itself."""
    log_as("text")
    # What Kubernetes and batch systems send ends a run as Ctrl-C does.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell's background jobs have it
            signal.signal(number, interrupt)
    try:
        app()
    except SystemExit as ended:
        if ended.code != _TYPER_INTERRUPTED:
            raise
        complain("interrupted; the same command begins again")
        sys.exit(EXIT_UNFINISHED)
    except UserError as error:
        complain(str(error))
        sys.exit(EXIT_USAGE)
    except BusyError as error:
        complain(str(error))
        sys.exit(EXIT_UNFINISHED)
    except OSError as error:
        from sdhubert_ray.storage import TransientError

        if error.filename is None and error.errno in _UNWRITABLE:
            _end_output(error)
        if not isinstance(error, TransientError | PermissionError):
            raise
        complain(str(error))
        sys.exit(EXIT_UNFINISHED if isinstance(error, TransientError) else EXIT_USAGE)
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            _end_output(error)


def _end_output(error: OSError) -> None:
    """Say that nothing can be printed any more, and exit with 1; whoever has closed the pipe knows."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - else Python tries again when it ends
    if error.errno != errno.EPIPE:
        complain(f"what was to be printed cannot be written ({error.strerror}); free the place, or print elsewhere")
    sys.exit(EXIT_UNFINISHED)
