"""References joined to recordings: who meets whom, and that nobody is lost silently."""

import shlex
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from evaluation_inputs import make_output, make_row, make_table
from hypothesis import given
from hypothesis import strategies as st
from outputs import write_output

from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation import JoinOptions, Reference, join
from sdhubert_ray.evaluation import joining as joining_module
from sdhubert_ray.evaluation.joining import bare_name
from sdhubert_ray.output import write_run


def make_reference(file_name, name=None):
    return Reference(name or f"ref of {file_name}", file_name, np.array([[0.1, 0.4]]), ("A",))


def names(joined):
    return [one.reference.file_name for one in joined.utterances]


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        join(*arguments)
    return str(caught.value)


def test_names_meet_without_the_ending_of_audio(tmp_path):
    ids = ["sub/a.flac", "sub/b.WAV", "c", "d.v2.mp3", "e.txt"]
    output = make_output(tmp_path / "out", [make_row(name, [(0, 1)]) for name in ids])
    references = [make_reference(name) for name in ("e.txt", "d.v2", "c.opus", "sub/b.flac", "sub/a")]
    joined = join(references, output, JoinOptions())
    assert names(joined) == ["e.txt", "d.v2", "c.opus", "sub/b.flac", "sub/a"]  # as the references are ordered
    assert (joined.missing, joined.num_extra) == ((), 0)
    # Folders and other endings count.
    for name in ("a.flac", "other/a.flac", "e", "d"):
        assert "1 of 1 referenced" in refusal([make_reference(name)], output, JoinOptions("skip"))


@given(st.text("ab./", max_size=8), st.sampled_from([".flac", ".wav", ".MP3", ".Opus"]))
def test_an_ending_of_audio_is_taken_off_once(name, ending):
    assert bare_name(f"x{name}b{ending}") == f"x{name}b"
    assert bare_name(f"x{name}b.lab") == f"x{name}b.lab"


def test_names_meet_in_either_form_of_unicode(tmp_path):
    """macOS decomposes the names of files, who types them does not."""
    composed, decomposed = (unicodedata.normalize(form, "Zoë/été.wav") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for name, other in ((composed, decomposed), (decomposed, composed)):
        output = make_output(tmp_path / name, [make_row(name, [(0, 1)])])
        assert len(join([make_reference(other)], output, JoinOptions()).utterances) == 1
    with pytest.raises(UserError, match="name one recording"):
        join([make_reference(composed), make_reference(decomposed)], output, JoinOptions())


@pytest.mark.parametrize(
    ("recordings", "references", "rename"),
    [
        (["1/2/a.flac", "1/2/b.flac"], ["test/1/2/a.flac", "test/1/2/b.flac"], ("test/", "")),
        (["test/1/a.flac", "test/1/b.flac"], ["1/a", "1/b"], ("", "test/")),
        (
            ["1/a.flac", "1/b.flac"],
            ["/corpus/test other/1/a.wav", "/corpus/test other/1/b.wav"],
            ("/corpus/test other/", ""),
        ),
    ],
)
def test_references_named_from_another_folder_are_offered_a_mapping(tmp_path, recordings, references, rename):
    output = make_output(tmp_path / "out", [make_row(name, [(0, 1)]) for name in recordings])
    wanted = [make_reference(name) for name in references]
    assert refusal(wanted, output, JoinOptions()).endswith(f"; they are with --rename {shlex.quote('='.join(rename))}")
    joined = join(wanted, output, JoinOptions(rename=rename))
    assert len(joined.utterances) == 2
    assert joined.num_extra == 0


@pytest.mark.parametrize(("factor", "unit"), [(1000, "milliseconds"), (16_000, "samples"), (44_100, "samples")])
def test_references_in_other_units_than_seconds_are_refused(tmp_path, factor, unit):
    output = make_output(tmp_path / "out", [make_row(f"{name}.wav", [(0, 1)], duration=4.0) for name in "abc"])
    wanted = [
        Reference(name, f"{name}.wav", np.array([[0.1, 0.4], [0.5, end]]), ("A", "B"))
        for name, end in zip("abc", (3.9, 2.2, 4.3), strict=True)
    ]
    assert len(join(wanted, output, JoinOptions()).utterances) == 3
    scaled = [replace(one, syllables=one.syllables * factor) for one in wanted]
    said = refusal(scaled, output, JoinOptions())
    assert said.startswith(f"the references are in {unit}, it seems: that of ")
    assert said.endswith("its recording at 4.000 s; give seconds")


def test_references_of_parts_are_in_seconds_of_the_file(tmp_path):
    """A second of a long recording, whose reference lies far behind the length of the part."""
    row = make_row("a.wav", [(150.1, 150.4)], offset=150.0, duration=1.0)
    output = make_output(tmp_path / "out", [row])
    joined = join([Reference("a", "a.wav", np.array([[150.1, 150.9]]), ("A",))], output, JoinOptions())
    assert len(joined.utterances) == 1


def test_file_names_come_before_ids(tmp_path):
    output = make_output(tmp_path / "out", [make_row("a.wav", [(0, 1)]), make_row("b.wav", [(1, 2)])])
    # The second reference has the first one's file as its id, and is that of another file.
    references = [make_reference("a.wav", "c"), make_reference("elsewhere/b.wav", "a")]
    joined = join(references, output, JoinOptions("skip"))
    assert joined.missing == ("elsewhere/b.wav",)
    by_id = join([make_reference("elsewhere/b.wav", "b")], output, JoinOptions())
    assert by_id.utterances[0].segments.tolist() == [[1, 2]]
    assert by_id.extra == ("a.wav",)


def test_two_for_one_are_refused(tmp_path):
    output = make_output(tmp_path / "out", [make_row("a.wav"), make_row("a.flac")])
    assert "recordings 'a.wav' and 'a.flac' for the reference of a.wav" in refusal(
        [make_reference("a.wav")], output, JoinOptions("skip")
    )
    # One by file_name, one by id.
    other = make_output(tmp_path / "other", [make_row("a.wav"), make_row("x.flac")])
    assert "recordings 'a.wav' and 'x.flac' for" in refusal([make_reference("a.wav", "x")], other, JoinOptions("skip"))
    twice = [make_reference("a.wav"), make_reference("a.mp3")]
    assert "two references have file_name 'a.wav' and 'a.mp3'" in refusal(twice, output, JoinOptions())
    twice = [make_reference("a.wav", "x"), make_reference("b.wav", "x.flac")]
    assert "two references have id 'x' and 'x.flac'" in refusal(twice, output, JoinOptions())


def test_missing_and_failed_recordings(tmp_path):
    rows = [
        make_row("a.wav", [(0, 1)], speaker="s1"),
        make_row("b.wav", status="unreadable", error="is no audio", speaker="s2"),
        make_row("c.wav", status="silent", speaker="s3"),
        make_row("x.wav", [(0, 1)]),
    ]
    output = make_output(tmp_path / "out", rows, carried=["speaker"])
    references = [make_reference(f"{name}.wav") for name in "abcd"]
    said = refusal(references, output, JoinOptions())
    assert "2 of 4 referenced recordings have no segments" in said
    for part in ("(1 are there, but unreadable)", "such as b.wav, d.wav", "--missing skip", "--missing empty"):
        assert part in said
    for missing, kept in (("skip", "ac"), ("empty", "abcd")):
        joined = join(references, output, JoinOptions(missing, ("speaker",)))
        assert names(joined) == [f"{name}.wav" for name in kept]
        assert joined.missing == ("b.wav", "d.wav")
        assert joined.failed == {"b.wav": "unreadable"}
        assert (joined.num_extra, joined.extra) == (1, ("x.wav",))
    assert [one.groups for one in joined.utterances] == [("s1",), ("s2",), ("s3",), ("(none)",)]
    assert [len(one.segments) for one in joined.utterances] == [1, 0, 0, 0]
    assert [one.duration for one in joined.utterances] == [10, 0, 10, 0]
    with pytest.raises(UserError, match="--missing is 'all'"):
        JoinOptions("all")


def test_missing_names_are_shown_beside_those_that_are_there(tmp_path):
    output = make_output(tmp_path / "out", [make_row(f"wav/{number}.wav") for number in range(9)])
    said = refusal([make_reference(f"{number}.wav") for number in range(9)], output, JoinOptions("empty"))
    assert "9 of 9" in said
    assert "such as 0.wav, 1.wav, 2.wav; recordings there are called like 'wav/0.wav'" in said


def test_pieces_are_joined_and_the_latest_attempt_counts(tmp_path):
    pieces = [
        make_row("long.wav", [(0, 1), (1, 2)], units=np.array([1, 2])),
        make_row("long.wav", [(10, 11)], piece=1, offset=10.0, units=np.array([3])),
    ]
    first = make_table([*pieces, make_row("a.wav", status="failed", error="killed its worker")])
    again = make_table([make_row("a.wav", [(3, 4)], units=np.array([7]))])
    output = write_output(str(tmp_path / "out"), [(1, first), (2, again)], {})
    joined = join([make_reference("a.wav"), make_reference("long.wav")], output, JoinOptions())
    assert [one.segments.tolist() for one in joined.utterances] == [[[3, 4]], [[0, 1], [1, 2], [10, 11]]]
    assert [one.units.tolist() for one in joined.utterances] == [[7], [1, 2, 3]]
    assert [one.duration for one in joined.utterances] == [10, 20]


def test_groups_are_values_of_columns(tmp_path):
    rows = [make_row(f"{name}.wav", speaker=speaker, split=f"p{name}") for name, speaker in (("a", "s"), ("b", None))]
    output = make_output(tmp_path / "out", rows, carried=["speaker", "split"])
    joined = join([make_reference("a.wav"), make_reference("b.wav")], output, JoinOptions(by=("split", "speaker")))
    assert [one.groups for one in joined.utterances] == [("pa", "s"), ("pb", "(none)")]
    said = refusal([make_reference("a.wav")], output, JoinOptions(by=("splt",)))
    assert "--by is 'splt'" in said
    assert "did you mean its column 'split'?" in said


def test_units_are_made_of_many_recordings_at_a_time(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    rows = []
    for number in range(20):
        features = random.integers(0, 50, (number % 4, 2)).astype(np.float32)
        segments = [(place, place + 1) for place in range(len(features))]
        rows.append(make_row(f"{number}.wav", segments, segment_features=features, units=np.zeros(len(segments))))
    output = make_output(tmp_path / "out", rows[:7], rows[7:])
    references = [make_reference(f"{number}.wav") for number in range(15)]
    calls = []

    def quantize(features):
        calls.append(len(features))
        return features[:, 0].astype(np.int32)

    monkeypatch.setattr(joining_module, "_QUANTIZED_AT_ONCE", 5)
    joined = join(references, output, JoinOptions(), quantize)
    assert len(calls) > 2
    assert sum(calls) == sum(len(row["segments"]) for row in rows[:15])
    for one, row in zip(joined.utterances, rows, strict=False):
        if len(row["segments"]):
            assert one.units.tolist() == row["segment_features"][:, 0].tolist()
    bare = make_output(tmp_path / "bare", [make_row("0.wav", [(0, 1)])])
    assert "keeps no segment features" in refusal([make_reference("0.wav")], bare, JoinOptions(), quantize)


def test_a_table_with_units_in_a_part_of_its_rows_is_refused(tmp_path):
    output = make_output(tmp_path / "out", [make_row("a.wav")])
    write_run(output, {"fingerprint": {}, "runs": 1, "tokenizing": {"name": "quantizer"}})
    assert "sdhubert tokenize" in refusal([make_reference("a.wav")], output, JoinOptions())


def test_an_output_that_is_none(tmp_path):
    assert "holds no run" in refusal([make_reference("a.wav")], str(tmp_path), JoinOptions())
