"""The figure shows what it was given."""

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
from matplotlib.collections import LineCollection, PatchCollection
from outputs import refusal

from sdhubert_ray import plot_segmentation
from sdhubert_ray.viewing.page import to_svg, write_page
from sdhubert_ray.viewing.plot import draw
from sdhubert_ray.viewing.view import Frames, Labelled, look

SEGMENTS = np.array([[0.1, 0.42], [0.42, 0.8], [1.2, 1.98]])


@pytest.fixture
def recording():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((100, 12)).astype(np.float32)
    features[40:60] = 0  # outside speech
    norm = rng.random(100).astype(np.float32)
    return rng.standard_normal(32_000).astype(np.float32), features, norm


def panels(figure):
    """The panels of a figure, by what is written beside them; of several rows, those of the first."""
    found = {}
    for axes in figure.axes:
        found.setdefault(axes.get_ylabel(), axes)
    return found


def save(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def boundaries(axes):
    """The times of vertical lines, by style."""
    lines = [one for one in axes.collections if isinstance(one, LineCollection)]
    assert len(lines) == 2
    return [sorted(path.vertices[0, 0] for path in one.get_paths()) for one in lines]


def labels(axes):
    return [text.get_text() for text in axes.texts]


def test_every_panel_holds_its_own(recording):
    samples, features, norm = recording
    units = np.array([7, 16383, 7])
    reference = Labelled(np.array([[0.1, 0.5], [1.2, 1.9]]), ("HH-EH", "L-OW"))
    figure = plot_segmentation(
        samples, SEGMENTS, sample_rate=16_000, features=features, norm=norm, threshold=0.3, units=units,
        reference=reference, title="a tïtle of $5 and <b>",
    )  # fmt: skip
    found = panels(figure)
    names = ["amplitude", "kHz (mel)", "syllable", "unit", "reference", "norm", "seconds", "cosine similarity"]
    assert [*found] == names
    assert labels(found["syllable"]) == ["1", "2", "3"]
    assert labels(found["unit"]) == ["7", "16383", "7"]
    assert labels(found["reference"]) == ["HH-EH", "L-OW"]
    for name in ("syllable", "reference"):
        (boxes,) = [one for one in found[name].collections if isinstance(one, PatchCollection)]
        edges = [path.get_extents().intervalx for path in boxes.get_paths()]
        np.testing.assert_allclose(edges, SEGMENTS if name == "syllable" else reference.intervals)
    for name in ("amplitude", "kHz (mel)"):
        # The end at 0.42 s is a start, too.
        assert boundaries(found[name]) == [[0.1, 0.42, 1.2], [0.8, 1.98]]
    curve = found["norm"].lines[-1]
    np.testing.assert_allclose(curve.get_xdata(), (np.arange(100) + 0.5) / 50)
    np.testing.assert_allclose(curve.get_ydata(), norm)
    assert [line.get_ydata()[0] for line in found["norm"].lines if line.get_linestyle() == "--"] == [0.3]
    assert all(axes.get_xlim() == (0, 2) for name, axes in found.items() if name != "cosine similarity")
    image = found["seconds"].images[0]
    assert image.get_extent() == [0, 2, 0, 2]
    assert np.asarray(image.get_array()).shape == (100, 100)
    (outlines,) = found["seconds"].collections
    for path, segment in zip(outlines.get_paths(), SEGMENTS, strict=True):
        np.testing.assert_allclose(path.get_extents(), np.stack([segment, segment], axis=1))
    assert [text.get_text() for text in figure.texts] == ["a tïtle of $5 and <b>"]
    (legend,) = figure.legends
    told = " ".join(text.get_text() for text in legend.get_texts())
    for word in (
        "start of a syllable",
        "end of a syllable",
        "reference",
        "threshold",
        "speech",
        "frames of a syllable",
    ):
        assert word in told
    assert save(figure).startswith(b"\x89PNG")


def test_a_notebook_shows_the_figure(recording):
    """IPython asks for this where pyplot was not imported, whose import teaches it figures."""
    shown = plot_segmentation(recording[0], SEGMENTS, sample_rate=16_000)._repr_png_()
    assert shown.startswith(b"\x89PNG")


def test_only_what_is_given_is_drawn(recording):
    figure = plot_segmentation(recording[0], SEGMENTS, sample_rate=16_000)
    assert [*panels(figure)] == ["amplitude", "kHz (mel)", "syllable"]
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 3


def test_a_stretch_keeps_times_and_numbers(recording):
    samples, features, norm = recording
    given = {"features": features, "norm": norm, "units": np.array([4, 5, 6])}
    figure = plot_segmentation(samples, SEGMENTS, sample_rate=16_000, start=0.5, end=1.5, **given)
    found = panels(figure)
    assert labels(found["syllable"]) == ["2", "3"]
    assert labels(found["unit"]) == ["5", "6"]
    assert found["amplitude"].get_xlim() == (0.5, 1.5)
    signal = found["amplitude"].lines[0]
    assert signal.get_xdata()[0] == pytest.approx(0.5, abs=0.01)
    assert signal.get_ydata().max() == samples[8000:24_000].max()
    np.testing.assert_allclose(found["norm"].lines[-1].get_ydata(), norm[25:75])
    assert found["seconds"].images[0].get_extent() == [0.5, 1.5, 0.5, 1.5]


def test_a_long_recording_is_broken_into_rows():
    rng = np.random.default_rng(0)
    starts = np.arange(0, 24.5, 0.25)
    segments = np.stack([starts, starts + 0.2], axis=1)
    frames = Frames(0.0, rng.standard_normal((1250, 4)), rng.random(1250), 0.5)
    samples = rng.standard_normal(25 * 16_000).astype(np.float32)
    drawing = draw(look(samples, segments, 0.0, 25.0, frames=frames))
    assert [(row.begin, row.end) for row in drawing.rows] == [
        (pytest.approx(begin * 25 / 3), pytest.approx((begin + 1) * 25 / 3)) for begin in range(3)
    ]
    tiers = [axes for axes in drawing.figure.axes if axes.get_ylabel() == "syllable"]
    assert [label for axes in tiers for label in labels(axes)] == sorted(
        [str(number + 1) for number in range(len(segments))] + ["34"], key=int
    )  # those that begin in one row and end in the next are in both
    assert {axes.get_ylabel() for axes in drawing.figure.axes} >= {"lag (s)", "norm", "amplitude"}
    assert save(drawing.figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(("samples", "frames"), [(32_000, 100), (800, 2), (100, 0), (0, 0)])
def test_recordings_without_syllables_can_be_drawn(samples, frames):
    """Silence, audio too short for a frame, and nothing at all."""
    given = {"features": np.zeros((frames, 4), np.float32), "norm": np.full(frames, -np.inf), "threshold": 0.1}
    figure = plot_segmentation(np.zeros(samples, np.float32), np.zeros((0, 2)), sample_rate=16_000, **given)
    assert save(figure).startswith(b"\x89PNG")


def test_files_integers_and_other_rates(recording, tmp_path):
    samples = (10_000 * np.sin(np.arange(44_100) / 20)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 44_100)
    for figure in (
        plot_segmentation(tmp_path / "a.wav", SEGMENTS[:2]),
        plot_segmentation(samples, SEGMENTS[:2], sample_rate=44_100),
    ):
        assert panels(figure)["amplitude"].get_xlim() == (0, 1)


def test_inputs_are_left_alone(recording):
    for array in (*recording, SEGMENTS):
        array.flags.writeable = False
    samples, features, norm = recording
    save(plot_segmentation(samples, SEGMENTS, sample_rate=16_000, features=features.astype(np.float16), norm=norm))
    SEGMENTS.flags.writeable = True


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"start": 2.0, "end": 1.0}, "0 <= start < end"),
        ({"start": -1.0}, "0 <= start < end"),
        ({"sample_rate": None}, "need their sample_rate"),
        ({"units": np.array([1])}, "1 units for 3 segments"),
        ({"sample_rate": 200}, "120 s at most, not 160.00 s"),
    ],
)
def test_what_cannot_be_drawn_is_refused(given, sentence, recording):
    assert sentence in refusal(lambda: plot_segmentation(recording[0], SEGMENTS, **{"sample_rate": 16_000, **given}))


# -- pages


class Page(HTMLParser):
    """Tags of a page, with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_a_page_holds_picture_sound_and_a_button_for_each_syllable(recording):
    samples, *_ = recording
    title = "<script>alert('x')</script>.wav & {braces}"
    view = look(samples[16_000:], SEGMENTS, 1.0, 2.0, units=np.array([1, 2, 3]), title=title)
    text = write_page([(view, draw(view))])
    page = Page(text)
    assert len(page.all("script")) == 1
    assert title in page.text
    (button,) = page.all("button")
    assert (float(button["data-start"]), float(button["data-end"])) == (pytest.approx(0.2), pytest.approx(0.98))
    assert button["aria-label"] == "syllable 3, 1.20 to 1.98 s, unit 3"
    (section,) = page.all("section")
    ((begin, end, left, top, width, height),) = json.loads(section["data-rows"])
    assert (begin, end) == (0, 1)
    style = {name: float(value) for name, value in re.findall(r"(\w+):([\d.]+)%", button["style"])}
    assert style["left"] == pytest.approx(left + 0.2 * width, abs=0.01)
    assert style["width"] == pytest.approx(0.78 * width, abs=0.01)
    assert 0 < top < top + height < 100
    sources = [attributes["src"] for name in ("img", "audio") for attributes in page.all(name)]
    assert [source.partition(";")[0] for source in sources] == ["data:image/svg+xml", "data:audio/flac"]
    assert "default-src 'none'" in next(one["content"] for one in page.all("meta") if "http-equiv" in one)


def test_a_page_of_several_and_the_same_bytes_each_time(recording):
    views = [look(recording[0], SEGMENTS, 0.0, 2.0, title=name) for name in ("one", "two")]
    texts = [write_page([(view, draw(view)) for view in views]) for _ in range(2)]
    assert len(Page(texts[0]).all("section")) == 2
    assert b"<svg" in to_svg(draw(views[0]))
