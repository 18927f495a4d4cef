"""Options chosen on validation recordings: layers, what is speech, how it is cut and merged; each at its best shift."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
import numpy.typing as npt

from sdhubert_ray import storage
from sdhubert_ray.encoder.checkpoint import load_model
from sdhubert_ray.encoder.inference import encode_pieces
from sdhubert_ray.encoder.official import Checkpoint
from sdhubert_ray.errors import UserError
from sdhubert_ray.evaluation.references import load_references
from sdhubert_ray.metrics import BoundaryCounts, BoundaryScores, count_sdhubert, score_boundaries, tune_shift
from sdhubert_ray.runs.stages import AudioSource, load_piece, settle_pieces
from sdhubert_ray.speech.audio import Span
from sdhubert_ray.speech.presets import EncoderOptions, SegmentationOptions
from sdhubert_ray.speech.spans import Spans, SpeechOptions, find_speech
from sdhubert_ray.speech.syllables import SyllableOptions, initial_cut, merge, to_seconds
from sdhubert_ray.speech.windows import Features

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Encoded:
    """A recording of T frames at 50 Hz, as an encoder or a front end without one has it.

    Attributes:
        states: layer -> (T, D) features, of all layers that are tried.
        amplitude: (T,) float32, mean |z-scored sample|.
        syllables: (R, 2) seconds, the truth.
        levels: (T,) float32, what tells speech; none: the norms of the states of each layer.
    """

    states: Mapping[int, Features]
    amplitude: npt.NDArray[np.float32]
    syllables: Floats
    levels: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Grid:
    """What is tried.

    Attributes:
        layers: pairs of the states that are cut, and of those whose norm tells speech.
        speech: what counts as speech.
        cuts: how spans are cut; their merge threshold is not looked at.
        merge_thresholds: of what is cut.
    """

    layers: Sequence[tuple[int, int]]
    speech: Sequence[SpeechOptions]
    cuts: Sequence[SyllableOptions]
    merge_thresholds: Sequence[float]


def make_grid(layers: Sequence[tuple[int, int]], width: int) -> Grid:
    """What is tried by default of an encoder with D = `width`: relative norms, and absolute ones by sqrt(D).

    Args:
        layers: of `Grid`.
        width: of the states.
    """
    shares = np.round(np.arange(0.1, 0.85, 0.1), 6).tolist()
    speech = [SpeechOptions("relative", share, silence_threshold=None) for share in shares]
    speech += [SpeechOptions("absolute", round(share * width**0.5, 2), silence_threshold=None) for share in shares]
    cuts = [
        SyllableOptions(syl_dur=seconds, drop_frames=frames)
        for seconds, frames in itertools.product((0.15, 0.08, 0.1, 0.12, 0.18, 0.2), (0, 2))
    ]
    return Grid(layers, speech, cuts, np.round(np.arange(0.2, 0.93, 0.02), 6).tolist())


@dataclass(frozen=True)
class Tuned:
    """The best options.

    Attributes:
        options: of the encoder, of speech and of syllables; the others are those that were given.
        score: mean of F1 and R-value, over the corpora.
        shifts: seconds added to the references of each corpus.
        scores: of each corpus.
    """

    options: SegmentationOptions
    score: float
    shifts: tuple[float, ...]
    scores: tuple[BoundaryScores, ...]


def encode_references(
    checkpoint: Checkpoint, references: str, folder: str, layers: Sequence[int], base: SegmentationOptions
) -> list[Encoded]:
    """Encode the recordings of references on the CPU, one window after the other.

    Args:
        checkpoint: the encoder.
        references: a JSON file as `load_references` takes it, whose file names have the endings of the audio.
        folder: path or URI that their file names are relative to.
        layers: whose states are kept.
        base: how audio is read and cut into windows.

    Raises:
        UserError: references, checkpoint or a recording cannot be used.
    """
    model = load_model(checkpoint, EncoderOptions(max(layers), max(layers)), "float32", "cpu")
    encoded = []
    for reference in load_references(references):
        uri = storage.absolute(storage.join(folder, reference.file_name))
        loaded = load_piece(AudioSource(uri), Span(), base.audio.channel, base.audio, base.windows)
        (piece,) = settle_pieces([loaded], base.audio, "cpu")
        if piece.samples is None:
            raise UserError(f"{uri} {piece.error or f'is {piece.status}'}; leave out its reference")
        states = {}
        for layer in layers:
            (found,) = encode_pieces(model, [piece.samples], base.windows, EncoderOptions(layer, layer), 0.0)
            states[layer] = found.features
        encoded.append(Encoded(states, found.amplitude, reference.syllables))
    return encoded


def tune_segmentation(corpora: Sequence[Sequence[Encoded]], base: SegmentationOptions, grid: Grid) -> Tuned:
    """Choose the options with the greatest mean of F1 and R-value (protocol `sdhubert`), each corpus the same weight.

    All layers and all that may count as speech with the first way to cut, then all ways to cut with the best of these,
    and so on by turns until nothing is better; every merge threshold each time.

    Raises:
        UserError: there are no recordings, or no boundary is matched by any of them.
    """
    if not corpora or not all(corpora):
        raise UserError("there are no validation recordings to choose options on")
    places = list(itertools.product(grid.layers, grid.speech))
    best = _best_of(corpora, base, itertools.product(places, grid.cuts[:1]), grid.merge_thresholds)
    while True:
        chosen = best.options
        place = ((chosen.encoder.layer, chosen.encoder.normcut_layer), chosen.speech)
        cut = _best_of(corpora, base, itertools.product([place], grid.cuts), grid.merge_thresholds).options.syllables
        found = _best_of(corpora, base, itertools.product(places, [cut]), grid.merge_thresholds)
        if not found.score > best.score:
            return best
        best = found


def _best_of(
    corpora: Sequence[Sequence[Encoded]],
    base: SegmentationOptions,
    tried: Iterable[tuple[tuple[tuple[int, int], SpeechOptions], SyllableOptions]],
    thresholds: Sequence[float],
) -> Tuned:
    results = (
        result
        for (layers, speech), cut in tried
        for result in _try_merging(
            corpora, replace(base, encoder=EncoderOptions(*layers), speech=speech, syllables=cut), thresholds
        )
    )
    best = max(results, key=lambda result: result.score, default=None)
    if best is None:
        raise UserError("no boundary of the validation recordings is matched; are the references of these?")
    return best


def _try_merging(
    corpora: Sequence[Sequence[Encoded]], options: SegmentationOptions, thresholds: Sequence[float]
) -> Iterator[Tuned]:
    """All merge thresholds from the greatest on: what a smaller one merges goes on from what a greater one has."""
    cut = [[(one.syllables, _cut(one, options)) for one in corpus] for corpus in corpora]
    for threshold in sorted(thresholds, reverse=True):
        syllables = replace(options.syllables, merge_threshold=threshold)
        shifts, scores = [], []
        for corpus in cut:
            pairs = [(truth, _merged(spans, syllables)) for truth, spans in corpus]
            found = tune_shift(pairs)
            if found is None:
                break
            counts = np.sum([astuple(count_sdhubert(*pair, found[0])) for pair in pairs], axis=0)
            shifts.append(found[0])
            scores.append(score_boundaries(BoundaryCounts(*counts.tolist())))
        else:
            score = float(np.mean([(one.f1 + (one.r_value or 0.0)) / 2 for one in scores]))
            yield Tuned(replace(options, syllables=syllables), score, tuple(shifts), tuple(scores))


@dataclass
class _Span:
    """A span of speech that begins at frame `start`: (n, D) states and the segments that it is cut into."""

    start: int
    states: Floats
    segments: Spans


def _cut(recording: Encoded, options: SegmentationOptions) -> list[_Span]:
    states = recording.states[options.encoder.layer]
    levels = recording.levels
    if levels is None:
        levels = np.linalg.norm(recording.states[options.encoder.normcut_layer].astype(np.float32), axis=1)
    speech = find_speech(levels, recording.amplitude, options.speech)
    spans = [(int(start), states[start:end].astype(np.float64)) for start, end in speech.spans]
    return [_Span(start, span, initial_cut(span, options.syllables)) for start, span in spans]


def _merged(spans: Sequence[_Span], options: SyllableOptions) -> Floats:
    """Merge the segments of spans, which stay so, and tell them in seconds: (S, 2)."""
    for span in spans:
        span.segments, _ = merge(span.states, span.segments, options)
    return to_seconds(np.concatenate([np.zeros((0, 2), np.int64), *(one.segments + one.start for one in spans)]))
