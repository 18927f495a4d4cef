"""The figure shows what it was given."""

import io

import numpy as np
import pytest
from matplotlib.colors import same_color

from sdhubert_ray.viewing.plot import Labelled, draw_segments


@pytest.fixture
def recording():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((100, 12)).astype(np.float32)
    features[40:60] = 0  # outside speech
    samples = rng.standard_normal(32_000).astype(np.float32)
    return samples, features, np.array([[0.1, 0.42], [0.42, 0.8], [1.2, 1.98]])


def save(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def test_image_is_the_cosine_similarity_of_frames(recording):
    samples, features, segments = recording
    _, axes, *_ = draw_segments(samples, features, segments, "title").axes
    shown = np.asarray(axes.images[0].get_array())
    for row, column in [(0, 0), (3, 90), (90, 3), (99, 39)]:
        left, right = features[row].astype(np.float64), features[column].astype(np.float64)
        expected = left @ right / np.sqrt((left @ left) * (right @ right))
        assert shown[row, column] == pytest.approx(expected, abs=1e-9)
    assert not shown[40:60].any()
    assert not shown[:, 40:60].any()
    assert axes.images[0].get_extent() == [0, 2, 0, 2]
    assert axes.images[0].origin == "lower"


def test_boundaries_stand_at_their_seconds(recording):
    samples, features, segments = recording
    wave, image, *_ = draw_segments(samples, features, segments, "title").axes
    signal, *lines = wave.lines
    np.testing.assert_array_equal(signal.get_ydata(), samples)
    np.testing.assert_allclose(signal.get_xdata(), np.arange(32_000) / 16_000)
    assert sorted(line.get_xdata()[0] for line in lines) == sorted(segments.ravel())
    corners = [(min(line.get_xdata()), max(line.get_xdata())) for line in image.lines]
    assert corners == [tuple(segment) for segment in segments]
    assert all(set(line.get_xdata()) == set(line.get_ydata()) for line in image.lines)
    assert image.get_xlim() == wave.get_xlim() == (0, 2)


def test_true_syllables_stand_below_the_waveform(recording):
    samples, features, segments = recording
    true = Labelled(np.array([[0.1, 0.5], [1.2, 1.9]]), ("HH-EH", "L-OW"))
    figure = draw_segments(samples, features, segments, "title", true)
    wave, below, image, *_ = figure.axes
    assert wave.get_ylabel() == "amplitude"
    assert image.get_ylabel() == "seconds"
    assert [text.get_text() for text in below.texts] == ["HH-EH", "L-OW"]
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in below.patches]
    np.testing.assert_allclose(spans, true.intervals)
    assert below.get_xlim() == wave.get_xlim()
    assert save(figure).startswith(b"\x89PNG")


def test_figure_is_a_png_with_title_and_axes_named(recording):
    figure = draw_segments(*recording, "a tïtle")
    wave, image, *_ = figure.axes
    assert wave.get_title() == "a tïtle"
    assert wave.get_ylabel() == "amplitude"
    assert (image.get_xlabel(), image.get_ylabel()) == ("seconds", "seconds")
    assert not same_color(wave.lines[0].get_color(), wave.lines[1].get_color())
    assert save(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(("samples", "frames"), [(32_000, 100), (800, 2), (100, 0), (0, 0)])
def test_recordings_without_syllables_can_be_drawn(samples, frames):
    """Silence, audio too short for a frame, and nothing at all."""
    figure = draw_segments(np.zeros(samples, np.float32), np.zeros((frames, 4), np.float32), np.zeros((0, 2)), "empty")
    assert save(figure).startswith(b"\x89PNG")
    assert len(figure.axes[0].lines) == 1


def test_inputs_are_left_alone(recording):
    for array in recording:
        array.flags.writeable = False
    draw_segments(*recording, "title")
    samples, features, segments = recording
    save(draw_segments(samples, features.astype(np.float16), segments, "half"))
