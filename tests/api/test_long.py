"""Long audio is one result, of its pieces."""

import io
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from api.results import assert_same, samples_of

from sdhubert_ray import SDHuBERTSegmenter
from sdhubert_ray.encoder.inference import encode_pieces
from sdhubert_ray.speech.audio import Span, normalise, read_audio
from sdhubert_ray.speech.spans import find_speech


@pytest.fixture(scope="module")
def long_file(golden, tmp_path_factory):
    """Fifty seconds of synthetic speech, and the path of its file."""
    speech = [samples_of(path) for path in sorted((golden / "audio").glob("*.flac"))] * 2
    samples = np.concatenate(speech)[: 50 * 16_000 + 123]
    assert len(samples) > 50 * 16_000
    path = tmp_path_factory.mktemp("long") / "long.flac"
    soundfile.write(path, samples, 16_000)
    return path


def joints_of(path, duration, count):
    """Where the pieces begin, from the neighbours' own reading."""
    length = duration / count
    joints = [0.0]
    for piece in range(1, count):
        span = Span(piece * length, (piece + 1) * length, joint_start=True, joint_end=piece < count - 1)
        with path.open("rb") as file:
            joints.append(read_audio(file, span).offset)
    return joints


def test_long_audio_is_one_result_of_its_pieces(tiny_checkpoint, segmenter, mincut, long_file):
    """What is computed piece by piece equals each piece's samples alone, at its place in the file and its windows."""
    in_pieces = SDHuBERTSegmenter(tiny_checkpoint, piece_seconds=20, device="cpu")
    found = in_pieces(long_file)
    samples = samples_of(long_file)
    assert found["length"] == len(samples) // 320
    assert found["status"] == "ok"
    joints = [round(joint * 50) for joint in joints_of(long_file, len(samples) / 16_000, 3)]
    edges = [*joints, len(samples) // 320]
    for begin, end in pairwise(edges):
        part = samples[begin * 320 : end * 320 if end != edges[-1] else None]
        phase = -begin % 225 * 320  # the file's windows begin every 225 frames
        options = segmenter.options
        (piece,) = encode_pieces(
            segmenter.model, [normalise(part, 0.0)], options.windows, options.encoder, 80.0, [phase]
        )
        expected = find_speech(piece.raw_norm, piece.amplitude, options.speech)
        assert len(expected.mask) == end - begin
        features = np.where(expected.mask[:, None], piece.features, 0)
        np.testing.assert_allclose(found["features"][begin:end], features, atol=1e-4)
        np.testing.assert_array_equal(found["mask"][begin:end], expected.mask)
        inside = [span for span in found["segments"].tolist() if begin <= span[0] < end]
        assert inside == (expected.spans + begin).tolist()

    output = mincut(found)
    assert np.all(output["segments"][1:, 0] >= output["segments"][:-1, 1])
    assert output["segments"].min() >= 0
    assert output["segments"].max() <= found["length"] / 50
    np.testing.assert_array_equal(output["segments"], np.round(output["segments"] * 50) / 50)


def test_long_audio_in_a_list_is_one_result(tiny_checkpoint, sounds, long_file):
    in_pieces = SDHuBERTSegmenter(tiny_checkpoint, piece_seconds=20, device="cpu")
    found = in_pieces([sounds[0], long_file, sounds[1]])
    assert len(found) == 3
    assert_same(found[1], in_pieces(long_file))
    assert_same(found[0], in_pieces(sounds[0]))


def test_pieces_change_segments_near_the_joints_only(tiny_checkpoint, segmenter, mincut, long_file):
    """The z-score is the piece's own, but most syllables do not move."""
    whole = mincut(segmenter(long_file))
    pieces = mincut(SDHuBERTSegmenter(tiny_checkpoint, piece_seconds=20, device="cpu")(long_file))
    assert whole["length"] == pieces["length"]
    same = {tuple(row) for row in whole["segments"].tolist()} & {tuple(row) for row in pieces["segments"].tolist()}
    assert len(same) > 0.6 * len(whole["segments"])


@pytest.mark.parametrize("container", ["FLAC", "WAV"])
def test_half_of_a_long_file_has_no_frames_beyond_its_end(tiny_checkpoint, long_file, tmp_path, container):
    samples = samples_of(long_file)
    whole = io.BytesIO()
    soundfile.write(whole, samples, 16_000, format=container)
    path = tmp_path / "half"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 4])
    found = SDHuBERTSegmenter(tiny_checkpoint, piece_seconds=20, device="cpu")(path)
    with path.open("rb") as file:
        decoded = len(read_audio(file, Span()).samples)
    assert found["status"] == "truncated"
    assert decoded < 16 * 16_000
    assert found["length"] == decoded // 320
