"""The stages, one after the other as the engines chain them: golden segments, and one row for every row."""

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from runs.stage_runs import (
    AUDIO,
    KINDS,
    NAMES,
    SHORTEST,
    audio_and_windows,
    in_unit,
    make_manifest,
    read_audio_file,
    read_golden,
    read_rows,
    segments_of,
)

from sdhubert_ray.errors import UserError
from sdhubert_ray.output.tables import (
    FAILED_STATUSES,
    RESULT_FIELDS,
    read_intervals,
    read_ragged,
    read_vectors,
)
from sdhubert_ray.runs.stages import AudioSource, DecodeAudio, load_piece
from sdhubert_ray.speech import Span

# -- golden values


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_recordings(golden_table, name):
    row = golden_table.column("id").to_pylist().index(f"{name}.flac")
    golden = read_golden(name)
    np.testing.assert_array_equal(segments_of(golden_table)[row], golden["segments"])
    np.testing.assert_allclose(
        read_vectors(golden_table.column("segment_features"))[row], golden["segment_features"], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(
        read_vectors(golden_table.column("frame_features"))[row], golden["frame_features"], rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(read_ragged(golden_table.column("norm"))[row], golden["norm"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(read_ragged(golden_table.column("mask"))[row], golden["mask"])
    np.testing.assert_array_equal(read_intervals(golden_table.column("spans"))[row], golden["speech_spans"])
    info = soundfile.info(AUDIO / f"{name}.flac")
    values = golden_table.slice(row, 1).to_pylist()[0]
    assert values["status"] == "ok"
    assert values["error"] is None
    assert values["num_frames"] == len(golden["mask"]) == info.frames // 320
    assert values["duration"] == info.frames / info.samplerate
    assert values["offset"] == 0.0
    assert values["uri"] == str(AUDIO / f"{name}.flac")


def test_the_golden_recordings_by_the_paper(segment):
    names = ["synth_0", "synth_3", "synth_1"]
    paths = [AUDIO / f"{name}.flac" for name in names]
    table = segment(make_manifest(paths), "preset=paper", "speech.normcut_threshold=5.0")
    for found, name in zip(segments_of(table), names, strict=True):
        np.testing.assert_array_equal(found, read_golden(name, "paper")["segments"])


@pytest.mark.parametrize(
    "override", ["speech.max_span_seconds=inf", "resources.batch_seconds=inf", "audio.piece_seconds=inf"]
)
def test_a_limit_without_end_is_refused_or_works(segment, override):
    try:
        table = segment(make_manifest([SHORTEST]), override)
    except UserError as error:
        assert override.partition("=")[0] in str(error)  # noqa: PT017 - either is right
    else:
        np.testing.assert_array_equal(segments_of(table)[0], read_golden("synth_3")["segments"])


# -- every kind of file


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_becomes_one_row_with_its_status(alone, files, kind):
    path, status, reason = files[kind]
    (row,) = alone[kind].to_pylist()
    assert row["status"] == status
    if reason is None:
        assert row["error"] is None
    else:
        assert row["error"].startswith(f"{path} ")
        assert reason in row["error"]
        assert "\n" not in row["error"]
    if status in FAILED_STATUSES:
        assert (row["duration"], row["num_frames"]) == (0.0, 0)
    else:
        assert row["duration"] == pytest.approx(len(read_audio_file(path)) / 16_000)
        assert row["num_frames"] == len(read_audio_file(path)) // 320
    if status not in ("ok", "truncated"):
        assert row["segments"] == row["segment_features"] == []
    else:
        assert len(row["segments"]) == len(row["segment_features"]) > 0


def test_the_schema_is_the_same_whatever_the_rows(segment, files, alone):
    schemas = [table.schema for table in alone.values()]
    schemas.append(segment(make_manifest([path for path, *_ in files.values()])).schema)
    assert all(schema == schemas[0] for schema in schemas)
    assert schemas[0].names[: len(RESULT_FIELDS)] == [field.name for field in RESULT_FIELDS]
    assert all(schemas[0].field(field.name).type == field.type for field in RESULT_FIELDS)
    options = ["output.frame_features=float16"]
    kept = [segment(make_manifest([files[kind][0]]), *options).schema for kind in ("speech", "silent", "missing")]
    assert kept[0] == kept[1] == kept[2]


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(KINDS), max_size=6))
def test_as_many_rows_come_out_as_go_in_and_none_depends_on_its_neighbours(segment, files, alone, kinds):
    manifest = make_manifest([files[kind][0] for kind in kinds])
    table = segment(manifest)
    for column in ("key", "id", "uri", "piece"):
        assert table.column(column).to_pylist() == manifest.column(column).to_pylist()
    features = read_vectors(table.column("segment_features"))
    for row, kind in enumerate(kinds):
        by_itself = alone[kind]
        for column in ("status", "error", "duration", "offset", "num_frames", "segments"):
            assert table.column(column)[row].as_py() == by_itself.column(column)[0].as_py()
        expected = read_vectors(by_itself.column("segment_features"))[0]
        np.testing.assert_allclose(features[row], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("uri", ["nosuch://bucket/a.wav", "a\0b.wav", "x" * 5000, "/dev/null/x.wav"])
def test_what_cannot_be_fetched_becomes_a_status(segment, uri):
    manifest = make_manifest([SHORTEST, SHORTEST], duration=[0.4, 0.4])
    manifest = manifest.set_column(2, "uri", pa.array([str(SHORTEST), uri]))
    good, bad = segment(manifest).to_pylist()
    assert good["status"] == "ok"
    assert bad["status"] in FAILED_STATUSES
    assert "\n" not in bad["error"]


def test_a_table_of_no_rows_passes(segment):
    table = segment(make_manifest([SHORTEST]).slice(0, 0))
    assert table.num_rows == 0
    assert table.schema == segment(make_manifest([SHORTEST])).schema


# -- parts and channels of files


def test_a_part_of_a_file_gives_what_the_part_gives_by_itself(segment, tmp_path):
    """Rows with start and end: as if the part were a file, but its times are those of the whole."""
    soundfile.write(tmp_path / "part.wav", read_audio_file(AUDIO / "synth_1.flac")[32_000:80_000], 16_000)
    soundfile.write(tmp_path / "whole.wav", read_audio_file(AUDIO / "synth_1.flac"), 16_000)
    by_itself = segment(make_manifest([tmp_path / "part.wav"]))
    part = segment(make_manifest([tmp_path / "whole.wav"], start=[2.0], end=[5.0]))
    assert len(segments_of(by_itself)[0]) > 5
    np.testing.assert_allclose(segments_of(part)[0], segments_of(by_itself)[0] + 2.0, rtol=0, atol=1e-9)
    assert part.column("offset").to_pylist() == [2.0]
    assert part.column("duration").to_pylist() == [3.0]
    np.testing.assert_array_equal(
        read_vectors(part.column("segment_features"))[0], read_vectors(by_itself.column("segment_features"))[0]
    )


def test_pieces_cover_a_file_once(segment, tmp_path):
    """50 s in pieces of 20: each piece begins where the one before ended, on a frame, and none is lost."""
    speech = np.concatenate([read_audio_file(AUDIO / f"{name}.flac") for name in NAMES] * 2)
    soundfile.write(tmp_path / "long.wav", speech, 16_000)
    manifest = in_unit(read_rows(tmp_path / "long.wav"), 20.0)
    table = segment(manifest)
    assert table.num_rows == 3
    offsets, durations = table.column("offset").to_pylist(), table.column("duration").to_pylist()
    ends = np.add(offsets, durations)
    assert offsets[0] == 0.0
    np.testing.assert_allclose(offsets[1:], ends[:-1], rtol=0, atol=1e-9)
    assert ends[-1] == pytest.approx(len(speech) / 16_000)
    for offset, end, segments in zip(offsets, ends, segments_of(table), strict=True):
        assert offset * 50 == pytest.approx(round(offset * 50), abs=1e-9)
        assert segments[0, 0] >= offset
        assert segments[-1, 1] <= end + 1e-9


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    """Speech on the left, noise on the right."""
    speech = read_audio_file(SHORTEST)
    noise = np.random.default_rng(0).normal(0, 0.1, len(speech)).astype(np.float32)
    path = tmp_path_factory.mktemp("stereo") / "stereo.wav"
    soundfile.write(path, np.stack([speech, noise], axis=1), 16_000, subtype="FLOAT")
    return path


def test_a_channel_can_be_chosen_by_option_and_by_row(segment, stereo):
    golden = read_golden("synth_3")["segments"]
    np.testing.assert_array_equal(segments_of(segment(make_manifest([stereo]), "audio.channel=0"))[0], golden)
    by_row = make_manifest([stereo] * 3, channel=pa.array([0, 1, None], pa.int32()))
    found = segments_of(segment(by_row, "audio.channel=0"))
    np.testing.assert_array_equal(found[0], golden)
    np.testing.assert_array_equal(found[2], golden)
    assert not np.array_equal(found[1], golden)
    average = read_ragged(DecodeAudio(*audio_and_windows())(make_manifest([stereo])).column("samples"))[0]
    mono = soundfile.read(stereo)[0].mean(axis=1)
    np.testing.assert_allclose(average, (mono - mono.mean()) / mono.std(), rtol=0, atol=1e-4)


def test_channels_that_cancel_each_other_say_what_to_do(tmp_path):
    speech = read_audio_file(AUDIO / "synth_3.flac")
    soundfile.write(tmp_path / "antiphase.wav", np.stack([speech, -speech], axis=1), 16_000)
    source = AudioSource(str(tmp_path / "antiphase.wav"))
    piece = load_piece(source, Span(), None, *audio_and_windows())
    assert (piece.status, piece.samples) == ("silent", None)
    assert "cancel each other; take one of them (audio.channel=0)" in piece.error
    chosen = load_piece(source, Span(), 0, *audio_and_windows())
    np.testing.assert_array_equal(
        chosen.samples, load_piece(AudioSource(str(AUDIO / "synth_3.flac")), Span(), None, *audio_and_windows()).samples
    )


def test_weak_floats_are_no_silence(tmp_path):
    speech = read_audio_file(AUDIO / "synth_3.flac").astype(np.float32)
    expected = load_piece(AudioSource(str(AUDIO / "synth_3.flac")), Span(), None, *audio_and_windows())
    soundfile.write(tmp_path / "weak.wav", np.ldexp(speech, -20), 16_000, subtype="FLOAT")
    piece = load_piece(AudioSource(str(tmp_path / "weak.wav")), Span(), None, *audio_and_windows())
    assert piece.status == "ok"
    np.testing.assert_allclose(piece.samples, expected.samples, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channel", [2, -1])
def test_a_channel_that_is_not_there_is_not_another_one(stereo, channel):
    piece = load_piece(AudioSource(str(stereo)), Span(), channel, *audio_and_windows())
    assert piece.status == "unreadable"
    assert "channel" in piece.error
