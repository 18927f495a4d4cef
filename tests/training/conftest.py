"""What tests of training share: processes beside this one that are there at once."""

import pytest
from forks import CONTEXT, OTHERS

CONTEXT.set_forkserver_preload([*OTHERS, "lightning.pytorch"])


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """The folder of a HuBERT as small as one can be, with weights."""
    from distillations import write_upstream  # transformers takes seconds

    return write_upstream(tmp_path_factory.mktemp("upstream"))


@pytest.fixture
def forked():
    """Starts a function in a process of its own, with none of this one's threads: `forked(function, *arguments)`."""
    started = []

    def start(function, *arguments):
        process = CONTEXT.Process(target=function, args=arguments, daemon=True)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()
