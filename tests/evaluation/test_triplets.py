"""Triplets of spoken-sentence ABX, read from JSON, and what is refused of them."""

import pytest
from triplet_inputs import GOOD, clip, write

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.triplets import read_triplets


@pytest.mark.parametrize(
    ("triplets", "reason"),
    [
        ({}, "hold no triplet; they are an object of id -> {X, P, N}"),
        ([], "hold no triplet; they are an object of id -> {X, P, N}"),
        ("{", "are no JSON of triplets"),
        ('{"t1": {}, "t1": {}}', "key 't1' is there twice"),
        ({"t1": [GOOD]}, "'t1' is no object of X, P and N"),
        ({"t1": {"X": GOOD, "P": GOOD}}, "'t1' has no N; a triplet has X, P and N"),
        ({"t1": {"X": GOOD, "P": GOOD, "N": "a.wav"}}, "'t1', N is no object of file_name and segment"),
        ({"t1": {"X": {**GOOD, "file_name": 3}}}, "'t1' has no P"),
        ({"t1": {"X": GOOD, "P": {**GOOD, "file_name": 3}, "N": GOOD}}, "'t1', P: file_name is 3.0"),
        (
            {"t1": {"X": {"file_name": "a"}, "P": GOOD, "N": GOOD}},
            "'t1', X: segment is None; it has to be [start, end]",
        ),
        (
            {"t1": {"X": {**GOOD, "segment": [0]}, "P": GOOD, "N": GOOD}},
            "'t1', X: segment is [0.0]; it has to be [start",
        ),
        ({"t1": {"X": {**GOOD, "segment": [0, "b"]}, "P": GOOD, "N": GOOD}}, "'t1', X: segment is [0.0, 'b']; it"),
        ({"t1": {"X": clip("a", 1, 1), "P": GOOD, "N": GOOD}}, "'t1', X: segment is [1.0, 1.0]; it has to begin"),
        ({"t1": {"X": clip("a", -1, 1), "P": GOOD, "N": GOOD}}, "'t1', X: segment is [-1.0, 1.0]; it has to begin"),
        ({"t1": {"X": clip("a", 0, 10**400), "P": GOOD, "N": GOOD}}, "'t1', X: segment is [0.0, inf]; it has to"),
        ({"t1": {"X": clip("a", 0, True), "P": GOOD, "N": GOOD}}, "'t1', X: segment is [0.0, True]; it has to"),
        ({"t1": {"X": clip("a", 0, float("nan")), "P": GOOD, "N": GOOD}}, "'t1', X: segment is [0.0, nan]; it has to"),
        (
            {"t1": {"X": clip("a", 0, 61), "P": GOOD, "N": GOOD}},
            "'t1', X: segment is 61 s long; clips of up to 60 s",
        ),
    ],
)
def test_malformed_triplets_are_refused_by_id_and_key(tmp_path, triplets, reason):
    path = write(tmp_path, triplets)
    with pytest.raises(UserError) as caught:
        read_triplets(path, "audio")
    assert str(caught.value).startswith(f"triplets {path}")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_triplets_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.json do not exist"):
        read_triplets(str(tmp_path / "none.json"), "audio")
    with pytest.raises(UserError, match="cannot be read"):
        read_triplets(str(tmp_path), "audio")


def test_names_are_relative_to_the_root_unless_absolute(tmp_path):
    one = {**GOOD, "file_name": "b/c.flac"}
    other = {**GOOD, "file_name": "/d/e.flac"}
    far = {**GOOD, "file_name": "s3://bucket/f.flac"}
    path = write(tmp_path, {"t": {"X": one, "P": other, "N": far}})
    assert [each.uri for each in read_triplets(path, "s3://a").clips] == [
        "s3://a/b/c.flac",
        "/d/e.flac",
        "s3://bucket/f.flac",
    ]
    assert read_triplets(path, "/corpus/").clips[0].uri == "/corpus/b/c.flac"
