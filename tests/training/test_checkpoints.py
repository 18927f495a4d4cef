"""Checkpoints of a run: which are whole, which is the best, and which may go."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdhubert_ray import storage
from sdhubert_ray.errors import UserError
from sdhubert_ray.training.checkpoints import (
    CHECKPOINT_FILE,
    SNAPSHOT,
    find_checkpoint,
    find_sound_checkpoint,
    forget_snapshot,
    list_checkpoints,
    locate_checkpoint,
    put_best,
    remove_older_checkpoints,
)


@pytest.fixture
def checkpoints(tmp_path):
    """Steps 5, 10 and 15, the last of them torn, and a folder of step 20 without a file."""
    for step in (5, 10, 15):
        (tmp_path / f"checkpoint_{step:09d}").mkdir()
        torch.save({"weights": torch.arange(1000.0) + step}, tmp_path / f"checkpoint_{step:09d}" / CHECKPOINT_FILE)
    torn = tmp_path / "checkpoint_000000015" / CHECKPOINT_FILE
    torn.write_bytes(torn.read_bytes()[:-30])
    (tmp_path / "checkpoint_000000020").mkdir()
    return tmp_path


def test_the_last_checkpoint_is_the_last_whole_one(checkpoints):
    assert find_checkpoint(str(checkpoints), "last").step == 10
    assert locate_checkpoint(str(checkpoints)).endswith(f"checkpoint_000000010/{CHECKPOINT_FILE}")
    assert find_checkpoint(str(checkpoints), "best") is None
    with pytest.raises(UserError, match="last or best"):
        find_checkpoint(str(checkpoints), "first")
    with pytest.raises(UserError, match="there is no checkpoint in"):
        locate_checkpoint(str(checkpoints / "nothing"))


def test_a_checkpoint_with_lost_pages_is_not_sound(checkpoints, caplog):
    path = checkpoints / "checkpoint_000000010" / CHECKPOINT_FILE
    content = bytearray(path.read_bytes())
    content[1000:1064] = bytes(64)
    path.write_bytes(content)
    assert find_checkpoint(str(checkpoints), "last").step == 10  # its index is whole
    assert find_sound_checkpoint(str(checkpoints)).step == 5
    assert "checkpoint_000000010/checkpoint.ckpt is damaged; going on from the one before (" in caplog.text


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_a_damaged_one(checkpoints, monkeypatch):
    """Going on from the one before would throw its steps away."""

    def denied(uri, **_):
        raise PermissionError(13, "Permission denied")  # which root, who may run the tests, is never told

    monkeypatch.setattr(storage, "open_binary", denied)
    for find in (find_sound_checkpoint, lambda output: find_checkpoint(output, "last")):
        with pytest.raises(
            UserError, match=r"checkpoint_000000015/checkpoint\.ckpt may not be read \(Permission denied"
        ):
            find(str(checkpoints))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_is_more_than_a_checkpoint_that_is_not_taken(tmp_path, place, bit):
    """Whatever it makes of the archive: read as it is, where the bit is in its padding, or passed over."""
    folder = tmp_path / "checkpoint_000000010"
    folder.mkdir(exist_ok=True)
    torch.save({"weights": torch.arange(100.0)}, folder / CHECKPOINT_FILE)
    content = bytearray((folder / CHECKPOINT_FILE).read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    (folder / CHECKPOINT_FILE).write_bytes(content)
    found = find_sound_checkpoint(str(tmp_path))
    assert found is None or found.step == 10


@pytest.mark.parametrize(("keep", "left"), [(1, [15, 10]), (2, [15, 10, 5]), (5, [15, 10, 5])])
def test_older_checkpoints_go_but_not_those_being_written(checkpoints, keep, left):
    remove_older_checkpoints(str(checkpoints), keep)
    assert [step for step, _ in list_checkpoints(str(checkpoints))] == left
    assert (checkpoints / "checkpoint_000000020").exists()


def test_torn_ones_go_where_newer_ones_are_whole(checkpoints):
    torch.save({}, checkpoints / "checkpoint_000000020" / CHECKPOINT_FILE)
    remove_older_checkpoints(str(checkpoints), 1)
    assert [step for step, _ in list_checkpoints(str(checkpoints))] == [20]
    remove_older_checkpoints(str(checkpoints / "nothing"), 1)


def test_the_best_takes_the_place_of_the_one_before(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"a")
    put_best(str(tmp_path), tmp_path / "a.ckpt", 5, 0.25)
    put_best(str(tmp_path), tmp_path / "a.ckpt", 10, 0.5)
    best = find_checkpoint(str(tmp_path), "best")
    assert (best.step, best.score) == (10, 0.5)
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step_000000010.ckpt"]


@pytest.mark.parametrize("record", ["{", '{"step": 1}', '{"file": "best/x.ckpt", "step": 1, "score": 0.5}'])
def test_a_record_of_the_best_that_is_damaged_or_of_nothing_is_told(tmp_path, record):
    (tmp_path / "best.json").write_text(record)
    with pytest.raises(UserError, match=r"best.json .*; remove it, or choose another output"):
        find_checkpoint(str(tmp_path), "best")


def test_the_record_of_ray_train_is_forgotten(tmp_path):
    (tmp_path / SNAPSHOT).write_text(json.dumps({"checkpoint_results": []}))
    forget_snapshot(str(tmp_path))
    forget_snapshot(str(tmp_path))
    assert not (tmp_path / SNAPSHOT).exists()
