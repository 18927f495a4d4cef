"""The stages, one after the other as the engines chain them: golden segments, and one row for every row."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN

from sdhubert_ray.corpus import cut_pieces, list_input
from sdhubert_ray.encoder import fetch_checkpoint, model
from sdhubert_ray.errors import UserError
from sdhubert_ray.output import unit_name
from sdhubert_ray.output.tables import (
    FAILED_STATUSES,
    RESULT_FIELDS,
    STAGES,
    STATUSES,
    read_intervals,
    read_ragged,
    read_vectors,
)
from sdhubert_ray.runs.config import load_config
from sdhubert_ray.runs.stages import AudioSource, CutSyllables, DecodeAudio, EncodeSpeech, WriteSegments, load_piece
from sdhubert_ray.runs.stages.rows import pack_rows, unpack_rows
from sdhubert_ray.speech import Span

AUDIO = GOLDEN / "audio"
SHORTEST = AUDIO / "synth_3.flac"
NAMES = [f"synth_{number}" for number in range(5)]
SECONDS = [f"{stage}_seconds" for stage in STAGES]


@pytest.fixture(scope="module")
def checkpoint():
    return fetch_checkpoint(str(GOLDEN / "checkpoint" / "tiny.pt"))


@pytest.fixture(scope="module")
def make_stages(checkpoint):
    """Stages of a configuration as the engines make them; encoders of one kind are made once."""
    encoders = {}

    def make(*overrides):
        config = load_config(None, overrides, {}, checkpoint.options)
        batch_seconds = config.resources.batch_seconds
        kind = (config.windows, config.encoder, config.dtype, batch_seconds)
        if kind not in encoders:
            encoders[kind] = EncodeSpeech(
                lambda: checkpoint, config.windows, config.encoder, config.dtype, "cpu", batch_seconds
            )
        return (
            DecodeAudio(config.audio, config.windows),
            encoders[kind],
            CutSyllables(config.segmentation, config.output),
        )

    return make


@pytest.fixture(scope="module")
def segment(make_stages):
    """A manifest to its segments table, by the stages of a configuration."""

    def run(manifest, *overrides):
        for stage in make_stages(*overrides):
            manifest = stage(manifest)
        return manifest

    return run


def make_manifest(paths, **columns):
    """One row per path, the id being its place and its name."""
    ids = [f"{number}/{Path(path).name}" for number, path in enumerate(paths)]
    return in_unit(pa.table({"id": ids, "uri": [str(path) for path in paths], **columns}))


def in_unit(recordings, piece_seconds=600.0):
    """The rows of recordings as they come from a plan: unit 0 of plan 1."""
    pieces = cut_pieces(recordings, piece_seconds)
    return pieces.append_column("unit_name", pa.array([unit_name("00001", 0)] * pieces.num_rows, pa.string()))


def read_rows(path):
    """The recordings of a manifest."""
    return pa.concat_tables(list(list_input(str(path)).batches))


def read_golden(name, preset="readme"):
    return np.load(GOLDEN / "segmentation" / preset / f"{name}.npz")


def read_audio_file(path):
    return soundfile.read(path, dtype="float32")[0]


def segments_of(table):
    return read_intervals(table.column("segments"))


# -- golden values


@pytest.fixture(scope="module")
def golden_table(segment):
    """All golden recordings at once, with everything that can be kept."""
    return segment(in_unit(read_rows(AUDIO)), "output.frame_features=float32")


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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of every kind: name -> (path, status, what its error says)."""
    folder = tmp_path_factory.mktemp("files")
    speech = read_audio_file(AUDIO / "synth_0.flac")
    soundfile.write(folder / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    soundfile.write(folder / "constant.wav", np.full(16_000, 0.25, np.float32), 16_000)
    soundfile.write(folder / "short.wav", speech[:800], 16_000)
    soundfile.write(folder / "no_samples.wav", speech[:0], 16_000)
    not_numbers = speech[:16_000].copy()
    not_numbers[8_000] = np.nan
    soundfile.write(folder / "nan.wav", not_numbers, 16_000, subtype="FLOAT")
    soundfile.write(folder / "half.wav", speech[:32_000], 16_000)
    whole = (folder / "half.wav").read_bytes()
    (folder / "half.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_text("This is no audio. " * 1000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "folder.wav").mkdir()
    kinds = {
        "speech": (SHORTEST, "ok", None),
        "silent": (folder / "silent.wav", "silent", None),
        "constant": (folder / "constant.wav", "silent", None),
        "short": (folder / "short.wav", "too_short", None),
        "no_samples": (folder / "no_samples.wav", "too_short", None),
        "half": (folder / "half.wav", "truncated", "truncated"),
        "nan": (folder / "nan.wav", "unreadable", "NaN"),
        "text": (folder / "text.wav", "unreadable", "not audio"),
        "empty": (folder / "empty.wav", "unreadable", "empty"),
        "missing": (folder / "missing.wav", "missing", "does not exist"),
        "folder": (folder / "folder.wav", "failed", "fetched"),
    }
    return {name: (str(path), status, error) for name, (path, status, error) in kinds.items()}


KINDS = [
    "speech",
    "silent",
    "constant",
    "short",
    "no_samples",
    "half",
    "nan",
    "text",
    "empty",
    "missing",
    "folder",
]


@pytest.fixture(scope="module")
def alone(segment, files):
    """The table of each file, segmented by itself."""
    return {name: segment(make_manifest([path])) for name, (path, _, _) in files.items()}


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


def audio_and_windows():
    config = load_config(None, [], {}, {})
    return config.audio, config.windows


@pytest.mark.parametrize("channel", [2, -1])
def test_a_channel_that_is_not_there_is_not_another_one(stereo, channel):
    piece = load_piece(AudioSource(str(stereo)), Span(), channel, *audio_and_windows())
    assert piece.status == "unreadable"
    assert "channel" in piece.error


# -- what goes through


def to_bytes(table):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_no_stage_changes_its_input(make_stages, files):
    """Ray's tables lie in shared memory: what one stage wrote into them, another would read."""
    table = make_manifest([files[kind][0] for kind in ("speech", "silent", "missing", "half")])
    for stage in make_stages("output.frame_features=float32"):
        # Buffers that really are read-only, as those of the object store.
        table = pa.ipc.open_stream(pa.py_buffer(to_bytes(table))).read_all()
        before = to_bytes(table)
        result = stage(table)
        assert to_bytes(table) == before
        table = result
    np.testing.assert_array_equal(segments_of(table)[0], read_golden("synth_3")["segments"])


CARRIED = {
    "speaker": ["s1", None],
    "score": [0.5, None],
    "clean": [True, False],
    "nothing": [None, None],
    "nested": [{"words": ["a", "b"]}, {"words": []}],
}


def test_carried_columns_come_out_as_they_went_in(segment, tmp_path):
    rows = pa.table({"id": ["a", "b"], "uri": [str(SHORTEST), "missing.wav"], **CARRIED})
    pq.write_table(rows, tmp_path / "manifest.parquet")
    manifest = in_unit(read_rows(tmp_path / "manifest.parquet"))
    table = segment(manifest, "output.frame_features=float16")
    for name, values in CARRIED.items():
        assert table.column(name).to_pylist() == values
        assert table.schema.field(name).type == manifest.schema.field(name).type


@pytest.mark.parametrize(
    "name", ["samples", *SECONDS, "unit_name", "text", "label", "features", "index", "__index_level_0__", "a.b", ""]
)
def test_a_column_of_any_name_is_carried_or_refused_at_once(segment, make_stages, tmp_path, name):
    rows = pa.table({"id": ["a"], "uri": [str(SHORTEST)], name: ["mine"]})
    pq.write_table(rows, tmp_path / "manifest.parquet")
    try:
        manifest = in_unit(read_rows(tmp_path / "manifest.parquet"))
    except UserError as error:
        assert repr(name) in str(error)  # noqa: PT017 - either is right
        return
    table = segment(manifest)
    assert table.column(name).to_pylist() == ["mine"]
    report = WriteSegments(str(tmp_path / "out"), "zstd", None)(table)
    assert report.column("rows").to_pylist() == [1]
    assert pq.read_table(next((tmp_path / "out" / "commits").iterdir())).column(name).to_pylist() == ["mine"]


# -- output options


@pytest.mark.parametrize("frame_features", ["float16", "float32"])
def test_frame_features_are_kept_if_asked_for(golden_table, segment, frame_features):
    paths = [SHORTEST, "missing.wav"]
    table = segment(make_manifest(paths), f"output.frame_features={frame_features}")
    kept = read_vectors(table.column("frame_features"))
    assert kept[0].dtype == frame_features
    golden = read_golden("synth_3")["frame_features"]
    np.testing.assert_allclose(kept[0], golden, rtol=1e-3 if frame_features == "float16" else 0, atol=1e-4)
    for column in ("frame_features", "norm", "mask", "spans", "raw_norm", "amplitude"):
        assert table.column(column)[1].as_py() is None
        assert len(table.column(column)[0]) == (2 if column == "spans" else 18)
    norm, raw = (read_ragged(table.column(name))[0] for name in ("norm", "raw_norm"))
    low, high = np.percentile(raw, (1, 99))
    np.testing.assert_allclose(norm, (raw - low) / (high - low), rtol=0, atol=1e-5)


def test_frame_columns_are_not_kept_otherwise(alone):
    found = set(alone["speech"].column_names)
    assert found == {field.name for field in RESULT_FIELDS} | {"segment_features", "units", "unit_name", *SECONDS}


@pytest.mark.parametrize("kept", ["auto", "float32", "float16", "none"])
def test_segment_features_are_kept_as_asked_for(segment, kept):
    table = segment(make_manifest([SHORTEST, "missing.wav"]), f"output.segment_features={kept}")
    np.testing.assert_array_equal(segments_of(table)[0], read_golden("synth_3")["segments"])
    if kept == "none":
        assert "segment_features" not in table.column_names
        return
    expected = np.dtype("float32" if kept == "auto" else kept)
    pooled = read_vectors(table.column("segment_features"))
    assert [array.dtype for array in pooled] == [expected, expected]
    golden = read_golden("synth_3")["segment_features"]
    np.testing.assert_allclose(pooled[0], golden, rtol=1e-3 if kept == "float16" else 0, atol=1e-4)
    assert pooled[1].shape == (0, 48)


def test_half_precision_features_cross_and_stay_half(make_stages, segment):
    decode, encode, cut = make_stages("dtype=float16", "output.frame_features=float16")
    encoded = encode(decode(make_manifest([SHORTEST, "missing.wav"])))
    assert encoded.schema.field("frame_features").type == pa.list_(pa.list_(pa.float16(), 48))
    table = cut(encoded)
    assert table.schema.field("segment_features").type == pa.list_(pa.list_(pa.float16(), 48))
    assert table.column("status").to_pylist() == ["ok", "missing"]
    golden = read_golden("synth_3")["frame_features"]
    difference = np.abs(read_vectors(table.column("frame_features"))[0].astype(np.float32) - golden)
    assert difference.max() < 0.02 * np.abs(golden).max()
    # What is pooled is what is in the table.
    segments = np.round(segments_of(table)[0] * 50).astype(int)
    frames = read_vectors(table.column("frame_features"))[0].astype(np.float64)
    expected = [frames[start:end].mean(axis=0) for start, end in segments]
    np.testing.assert_allclose(read_vectors(table.column("segment_features"))[0], expected, rtol=1e-3, atol=1e-3)
    wide = segment(make_manifest([SHORTEST]), "dtype=float16", "output.segment_features=float32")
    assert wide.schema.field("segment_features").type == pa.list_(pa.list_(pa.float32(), 48))


def test_a_recording_that_a_gpu_cannot_hold_fails_alone(checkpoint, files):
    """With whole pieces as windows: the long one does not fit, whatever it is batched with."""
    config = load_config(None, ["preset=paper"], {}, checkpoint.options)
    encode = EncodeSpeech(lambda: checkpoint, config.windows, config.encoder, "float32", "cpu", 80.0)

    def refuse(_, args):
        if args[0].shape[1] > 3 * 16_000:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    rows = DecodeAudio(config.audio, config.windows)(make_manifest([SHORTEST, AUDIO / "synth_0.flac", SHORTEST]))
    expected = encode(rows)
    encode.model.register_forward_pre_hook(refuse)
    encoded = encode(rows)
    assert encoded.column("status").to_pylist() == ["ok", "failed", "ok"]
    assert "does not fit into the memory of the GPU" in encoded.column("error")[1].as_py()
    for row in (0, 2):
        assert encoded.column("frame_features")[row] == expected.column("frame_features")[row]
    table = CutSyllables(config.segmentation, config.output)(encoded)
    assert table.column("segments")[1].as_py() == []


# -- rows packed into one

COLUMN = st.lists(st.none() | st.lists(st.floats(width=32, allow_nan=False), max_size=3), max_size=6)


@settings(deadline=None)
@given(COLUMN, st.integers(0, 6), st.integers(0, 6), st.booleans())
def test_packed_rows_come_back_as_they_were(values, start, length, chunked):
    """Nulls, slices, no rows at all, columns in chunks, and the metadata of the schema."""
    columns = {
        "key": pa.array([f"{row}" for row in range(len(values))], pa.string()),
        "samples": pa.array(values, pa.list_(pa.float32())),
        "phase": pa.array([None if value is None else len(value) for value in values], pa.int32()),
    }
    table = pa.table(columns, metadata={"made": "here"}).slice(start, length)
    if chunked:
        table = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    packed = pack_rows(table)
    assert packed.num_rows == 1
    several = pa.concat_tables([pack_rows(table.slice(0, 1)), packed, packed])
    for rows in (packed, several.slice(1, 1), several.combine_chunks().slice(1, 1)):
        back = unpack_rows(rows)
        back.validate(full=True)
        assert back.equals(table, check_metadata=True)
        assert all(column.num_chunks <= 1 for column in back.columns)


def test_packed_rows_are_not_copied():
    table = pa.table({"samples": pa.array([np.arange(100_000, dtype=np.float32)], pa.list_(pa.float32()))})
    packed = pack_rows(table)
    *_, stream = packed.column("packed").chunk(0).buffers()
    before = pa.total_allocated_bytes()
    samples = unpack_rows(packed).column("samples").chunk(0).values
    assert stream.address <= samples.buffers()[1].address < stream.address + stream.size
    assert pa.total_allocated_bytes() - before < 10_000


# -- writing


def test_what_is_written_is_the_table_and_what_comes_back_is_a_report(segment, files, tmp_path):
    kinds = ("speech", "missing", "silent")
    table = segment(make_manifest([files[kind][0] for kind in kinds], speaker=["a", "b", "c"]))
    write = WriteSegments(str(tmp_path), "zstd", None)
    (report,) = write(table).to_pylist()
    path = tmp_path / "commits" / "00001-0000000.parquet"
    assert (report["unit_name"], report["rows"], report["size"]) == (path.stem, 3, path.stat().st_size)
    assert {status: report[status] for status in STATUSES if report[status]} == {"ok": 1, "missing": 1, "silent": 1}
    assert report["segments"] == len(read_golden("synth_3")["segments"])
    assert report["duration"] == pytest.approx(sum(table.column("duration").to_pylist()))
    for name in SECONDS:
        assert report[name] == pytest.approx(sum(table.column(name).to_pylist()))
    assert pq.read_table(path).equals(table.drop_columns([*SECONDS, "unit_name"]))
    write(table)  # a task that is run again
    assert list((tmp_path / "commits").iterdir()) == [path]


@pytest.mark.parametrize("name", ["features", "raw_norm"])
def test_a_recording_that_overflows_fails_alone(segment, name, monkeypatch):
    """As half precision does on some; NaN in the table would stop whoever clusters it."""
    original = model.encode_pieces

    def overflowing(*arguments):
        first, second, *others = original(*arguments)
        values = getattr(second, name).copy()
        values[0] = np.inf
        return [first, second._replace(**{name: values}), *others]

    manifest = make_manifest([SHORTEST] * 3)
    expected = segment(manifest)
    monkeypatch.setattr(model, "encode_pieces", overflowing)
    table = segment(manifest)
    assert table.column("status").to_pylist() == ["ok", "failed", "ok"]
    assert table.column("error").to_pylist() == [
        None,
        f"{SHORTEST} overflows in the encoder; take --dtype float32",
        None,
    ]
    assert table.column("segments")[1].as_py() == []
    kept = ["key", "status", "error", "segments", "segment_features"]
    for row in (0, 2):
        assert table.select(kept).slice(row, 1).equals(expected.select(kept).slice(row, 1))
