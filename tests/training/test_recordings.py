"""The list of recordings that a training has: what is in it, and what is refused."""

import pickle

import numpy as np
import pytest
from training.ramps import list_into, list_source, make_folder, open_train, write_ramp

from sdhubert_ray.errors import UserError
from sdhubert_ray.training.recordings import open_recordings, put_recordings


def test_librispeech_has_its_splits(tmp_path):
    root = tmp_path / "LibriSpeech"
    for split, count in (("train-clean-100", 4), ("dev-clean", 2), ("test-other", 3)):
        for number in range(count):
            write_ramp(root / split / "1" / "2" / f"1-2-{number:04d}.flac", 1.0)
    found, out = list_into(tmp_path / "index", root_dir=str(root), train_splits=("train-clean-100",))
    assert (found.num_train, found.num_val) == (4, 2)
    assert {open_recordings(str(out), "val", tmp_path)[k].id for k in range(2)} == {
        f"dev-clean/1/2/1-2-{number:04d}.flac" for number in range(2)
    }
    with pytest.raises(
        UserError,
        match=r"no split 'train-clean-360'; it has .*; say in data\.train_splits and data\.val_splits which to use",
    ):
        list_into(out, root_dir=str(root))


def test_a_share_is_held_back_by_ids(tmp_path):
    folder = make_folder(tmp_path / "speech", 20, 0.5)
    found, out = list_source(folder, val_share=0.2)
    assert (found.num_train, found.num_val) == (16, 4)
    train, val = (open_recordings(str(out), name, tmp_path) for name in ("train", "val"))
    held = {val[k].id for k in range(4)}
    assert held.isdisjoint(train[k].id for k in range(16))
    found, out = list_source(folder, val_share=0.2)
    assert {open_recordings(str(out), "val", tmp_path)[k].id for k in range(4)} == held


def test_too_short_ones_are_left_out_where_their_length_is_told(tmp_path):
    manifest = tmp_path / "list.csv"
    manifest.write_text("id,uri,start,end,duration\na,x.wav,,,0.05\nb,x.wav,2.0,2.01,10.0\nc,x.wav,,,5\nd,x.wav,,,\n")
    found, out = list_source(manifest)
    assert (found.num_train, found.too_short) == (2, 2)
    recordings = open_train(out, tmp_path)
    assert [recordings[k].id for k in range(2)] == ["c", "d"]


def test_no_input_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.root_dir"):
        list_into(tmp_path)


def test_only_too_short_recordings_are_refused(tmp_path):
    manifest = tmp_path / "list.csv"
    manifest.write_text("id,uri,duration\na,x.wav,0.05\n")
    with pytest.raises(UserError, match=r"there are no recordings of 0\.1 seconds or more"):
        list_source(manifest, val_share=0.2)


def test_a_damaged_list_is_told(tmp_path):
    _, out = list_source(make_folder(tmp_path / "speech", 3, 0.3))
    (out / "train.arrow").write_bytes((out / "train.arrow").read_bytes()[:100])
    for name in ("train", "test"):
        with pytest.raises(UserError, match=rf"{name}.arrow, the list of recordings, is missing or damaged"):
            open_recordings(str(out), name, tmp_path)


def test_a_list_longer_than_a_batch_is_looked_up_by_number_and_crosses_as_a_path(tmp_path, monkeypatch):
    from sdhubert_ray.training import recordings as module

    monkeypatch.setattr(module, "_BATCH_ROWS", 4)
    found, out = list_source(make_folder(tmp_path / "speech", 11, 0.3), val_share=0.3)
    assert (found.num_train, found.num_val) == (8, 3)
    recordings = open_train(out, tmp_path)
    ids = [recordings[k].id for k in range(len(recordings))]
    assert ids == sorted(ids)
    assert len(set(ids)) == 8
    sent = pickle.dumps(recordings)
    assert len(sent) < 500
    assert [pickle.loads(sent)[k].id for k in range(8)] == ids


def test_a_remote_list_is_fetched(tmp_path):
    folder = make_folder(tmp_path / "speech", 3, 0.3)
    _, out = list_source(folder)
    put_recordings(out, "memory://training/index")
    assert open_recordings("memory://training/index", "train", tmp_path)[2].id == "002.wav"


# -- with segments


def test_recordings_have_the_segments_that_are_given_of_them(tmp_path):
    """By their ids, those held back too; recordings of which none are given are left out, and counted."""
    folder = make_folder(tmp_path / "speech", 8, 0.5)
    given = {f"{number:03d}.wav": np.array([[0.0, 0.1], [0.2, 0.3 + number]]) for number in range(6)}
    given["000.wav"] = np.zeros((0, 2))
    found, out = list_source(folder, val_share=0.4, segments=given)
    assert (found.num_train, found.num_val, found.without_segments) == (4, 2, 2)
    seen = set()
    for name, count in (("train", 4), ("val", 2)):
        recordings = open_recordings(str(out), name, tmp_path)
        for number in range(count):
            recording = pickle.loads(pickle.dumps(recordings))[number]
            np.testing.assert_array_equal(recording.segments, given[recording.id])
            seen.add(recording.id)
    assert seen == set(given)
    with pytest.raises(UserError, match=r"segments\.source has none of the 8 recordings; segment what is trained with"):
        list_source(folder, segments={"elsewhere/000.wav": given["001.wav"]})


def test_recordings_without_segments_have_none(tmp_path):
    _, out = list_source(make_folder(tmp_path / "speech", 2, 0.5))
    assert open_train(out, tmp_path)[0].segments is None
