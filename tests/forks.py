"""Processes of their own that need not start Python: forked from one that has imported what takes seconds to import.

That one has no threads, no Ray and nothing of ours; a test of how a command starts takes `commands.sdhubert_process`.
"""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import psutil
import pytest

OTHERS = (
    "omegaconf",
    "pyarrow.parquet",
    "rich.console",
    "rich.progress",
    "safetensors.numpy",
    "scipy.optimize",
    "sklearn.cluster",
    "soundfile",
    "torch",
    "transformers.models.hubert.modeling_hubert",
    "typer",
)
"""What takes seconds to import."""
FORKS = pytest.mark.xdist_group("forks")
"""Mark of tests that take one: they are one worker's, so that there is one process to fork from."""
COMMAND = "from sdhubert_ray import cli; cli.main()"

Done = subprocess.CompletedProcess[str]

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*OTHERS])


class Script:
    """`python -c CODE ARGUMENTS`, as it runs, in a session of its own.

    Attributes:
        pid: of its process.
        returncode: of the process, once it has ended.
    """

    def __init__(self, code: str, *arguments: str | Path) -> None:
        folder = Path(tempfile.mkdtemp(prefix="script"))
        weakref.finalize(self, shutil.rmtree, folder)
        self._said = [folder / "out", folder / "err"]
        self._args = ["-c", *map(str, arguments)]
        beginning = (code, self._args, self._said, dict(os.environ))
        self._process = CONTEXT.Process(target=_be, args=beginning, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def children(self) -> list[psutil.Process]:
        """All processes that it has started."""
        return psutil.Process(self.pid).children(recursive=True)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, if it has not ended, and wait until it has."""
        self._process.kill()
        self._process.join()

    def wait(self, timeout: float = 300) -> Done:
        """What it has said, when it ends by itself."""
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            self.kill()
        out, err = (path.read_text() for path in self._said)
        assert code is not None, f"it has not ended:\n{out}{err}"
        return Done(self._args, code, out, err)


def run_script(code: str, *arguments: str | Path) -> Done:
    """`python -c CODE ARGUMENTS`, from its beginning to its end."""
    return Script(code, *arguments).wait()


def _be(code: str, arguments: list[str], said: list[Path], environment: dict[str, str]) -> None:
    os.setsid()
    for number, path in enumerate(said, start=1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    # A shell's background jobs ignore SIGINT, and so would a child of tests run as one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = arguments
    exec(compile(code, "<script>", "exec"), {"__name__": "__main__"})
