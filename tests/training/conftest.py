"""What tests of training share: processes beside this one that are there at once."""

import multiprocessing

import pytest

# What takes seconds to import is imported once, by the process that the others are forked from.
multiprocessing.set_forkserver_preload(["sdhubert_ray.training.fitting"])


@pytest.fixture
def forked():
    """Starts a function in a process of its own, with none of this one's threads: `forked(function, *arguments)`."""
    context, started = multiprocessing.get_context("forkserver"), []

    def start(function, *arguments):
        process = context.Process(target=function, args=arguments, daemon=True)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()
