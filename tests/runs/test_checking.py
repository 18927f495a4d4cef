"""A check beside other work: begun once, told as soon as it can be."""

import threading

import pytest
from commands import sdhubert

from sdhubert_ray.errors import UserError
from sdhubert_ray.runs.checking import CheckBeside


@pytest.fixture
def gate():
    """A check that waits for an event, and how often it was made."""

    class Gate:
        made, open = 0, threading.Event()

        def check(self):
            self.made += 1
            assert self.open.wait(60)
            raise UserError("it does not fit")

    gate = Gate()
    yield gate
    gate.open.set()


def test_other_work_goes_on_until_it_is_refused(gate):
    checking = CheckBeside(gate.check)
    assert list(checking.unless_refused([1, 2])) == [1, 2]  # not begun
    checking.begin()
    items = checking.unless_refused(iter(range(5)))
    assert [next(items), next(items)] == [0, 1]
    gate.open.set()
    with pytest.raises(UserError, match="does not fit"):
        checking.wait()
    with pytest.raises(UserError, match="does not fit"):
        next(items)
    assert gate.made == 1


def test_it_is_begun_by_who_waits():
    done = []
    CheckBeside(lambda: done.append(threading.current_thread())).wait()
    assert done != [threading.main_thread()]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("more", [[], ["--plan"]])
def test_a_checkpoint_that_does_not_fit_is_refused_before_ray_does_anything(golden, tmp_path, more):
    """Encoders of Ray would find out one by one."""
    command = ["segment", golden / "audio", tmp_path / "out", "--checkpoint", golden / "checkpoint" / "tiny.pt"]
    refused = sdhubert(*command, "--engine", "ray", "encoder.layer=13", *more, expect=2)
    assert "encoder.layer is 13" in refused.stderr
    assert not (tmp_path / "out").exists()
