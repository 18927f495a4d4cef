"""The command line: `sdhubert segment`, `resegment`, `cluster`, `tokenize`, `evaluate`, `benchmark`, `train` and more.

Heavy imports happen inside the commands, so that `--help` and errors come at once.
"""

import errno
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import sdhubert_ray
from sdhubert_ray.cli import (
    benchmark,
    cite,
    cluster,
    compare,
    evaluate,
    export,
    import_quantizer,
    manifest,
    report,
    resegment,
    segment,
    show,
    status,
    tokenize,
    train,
)
from sdhubert_ray.cli.console import EXIT_UNFINISHED, EXIT_USAGE, begin_anew, complain, interrupt, log_as
from sdhubert_ray.cli.help import SETTINGS, Command, Group
from sdhubert_ray.errors import BusyError, UserError, first_line

# What typer makes of an interrupt that nobody has taken: one before the work began.
_TYPER_INTERRUPTED = 130
_UNWRITABLE = (errno.ENOSPC, errno.EPIPE)
app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=SETTINGS,
    epilog="""
sdhubert segment speech segments --checkpoint bundled
sdhubert show segments
""",
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"sdhubert_ray {sdhubert_ray.__version__}")
        raise typer.Exit


@app.callback()
def sdhubert(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Speech audio to syllables, with SD-HuBERT on Ray."""


def _add(command: Callable[..., None], *examples: str) -> None:
    app.command(cls=Command, epilog="\n".join(examples))(command)


_add(
    segment.segment,
    "sdhubert segment speech segments --checkpoint bundled",
    "sdhubert segment s3://bucket/corpus.parquet s3://bucket/segments --address HEAD:6379",
)
_add(
    resegment.resegment,
    "sdhubert resegment segments shorter syllables.syl_dur=0.15",
    "sdhubert resegment segments paper --preset paper --format textgrid",
)
_add(
    cluster.cluster,
    "sdhubert cluster segments units",
    "sdhubert cluster segments units --n-clusters 1024 --n-units 256 --sklearn",
)
_add(
    import_quantizer.import_quantizer,
    "sdhubert import-quantizer km_16384.pt km_16384to4096.npy units --trust-pickle",
    "sdhubert import-quantizer s3://bucket/km.pt s3://bucket/reducer.npy units --trust-pickle",
)
_add(
    tokenize.tokenize,
    "sdhubert tokenize segments --quantizer units",
    "sdhubert tokenize segments sequences --quantizer units --format jsonl --dedup",
)
app.add_typer(evaluate.evaluate, name="evaluate")
app.add_typer(benchmark.benchmark, name="benchmark")
_add(
    compare.compare,
    "sdhubert compare speech --systems bundled,uniform --references syllables.json -o compared",
    "sdhubert compare speech --systems bundled,sylber=sylber.ckpt --references test.json -o compared",
)
_add(
    manifest.manifest,
    "sdhubert manifest speech corpus.parquet",
    "sdhubert manifest 's3://bucket/shard-{000..099}.tar' corpus.parquet --limit 1000",
)
_add(status.status, "sdhubert status segments", "sdhubert status segments --json")
_add(
    show.show,
    "sdhubert show segments",
    "sdhubert show segments a/b.flac --references syllables.json -o figure.png",
)
_add(
    report.report,
    "sdhubert report segments",
    "sdhubert report segments --references syllables.json -o report.html",
)
_add(cite.cite, "sdhubert cite sylber", "sdhubert cite sylboost-6.25")
_add(
    train.train,
    "sdhubert train data.root_dir=LibriSpeech",
    "sdhubert train --config-name sdhubert_tiny data.source=speech max_steps=100 --output run",
)
_add(export.export, "sdhubert export run my.pt", "sdhubert export run my.pt --which last --overwrite")


def main() -> None:
    """Run the command line; what is wrong becomes one sentence, and exit code 2, or 1 if it may pass by itself.

    What nobody has foreseen becomes one as well; --debug shows its trace, which is kept in a file else.
    """
    begin_anew()
    log_as("text")
    # What Kubernetes and batch systems send ends a run as Ctrl-C does.
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell's background jobs have it
            signal.signal(number, interrupt)
    try:
        app(prog_name="sdhubert")
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
            _end_unforeseen(error)
        complain(str(error))
        sys.exit(EXIT_UNFINISHED if isinstance(error, TransientError) else EXIT_USAGE)
    except Exception as error:  # whatever it is: people get a sentence, and its trace in a file
        _end_unforeseen(error)
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            _end_output(error)


def _end_unforeseen(error: Exception) -> NoReturn:
    """Say in a sentence what nobody has foreseen, keep its trace in a file, and exit with 1."""
    trace = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile("w", prefix="sdhubert-", suffix=".trace", delete=False) as file:
        file.write(trace)
    complain(f"{type(error).__name__}: {first_line(error)}; nobody has foreseen this: its trace is in {file.name}")
    sys.exit(EXIT_UNFINISHED)


def _end_output(error: OSError) -> None:
    """Say that nothing can be printed any more, and exit with 1; whoever has closed the pipe knows."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - else Python tries again when it ends
    if error.errno != errno.EPIPE:
        complain(f"what was to be printed cannot be written ({error.strerror}); free the place, or print elsewhere")
    sys.exit(EXIT_UNFINISHED)
