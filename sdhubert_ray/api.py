"""The Python interface: audio to speech features, features to syllables. It needs no Ray."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast, overload

import numpy as np
import numpy.typing as npt

from sdhubert_ray import storage
from sdhubert_ray.corpus import cut_pieces, list_files
from sdhubert_ray.encoder.weights import RELEASED, fetch_checkpoint
from sdhubert_ray.errors import AudioError, UserError
from sdhubert_ray.output import count_joined, frame_offset, worst_status
from sdhubert_ray.output.tables import FAILED_STATUSES
from sdhubert_ray.runs.config import AUTO, DTYPES
from sdhubert_ray.runs.devices import torch_device
from sdhubert_ray.runs.stages import AudioSource, Piece, load_piece, prepare_piece, settle_pieces
from sdhubert_ray.speech.arrays import AudioInput, check_input, is_pair, read_samples, tells_rate, to_mono
from sdhubert_ray.speech.audio import FRAME_RATE, Audio, Span, resample_or_leave
from sdhubert_ray.speech.presets import get_preset, with_values
from sdhubert_ray.speech.spans import Speech, find_speech
from sdhubert_ray.speech.syllables import MIN_CUT, SEGMENTERS, SyllableOptions, find_syllables, to_seconds

if TYPE_CHECKING:  # it takes seconds, and whoever cuts features needs none
    from sdhubert_ray.encoder.inference import EncodedPiece

logger = logging.getLogger(__name__)


class SpeechFeatures(TypedDict):
    """What `SDHuBERTSegmenter` gives for one recording of T frames at 50 Hz.

    Keys:
        segments: (P, 2) int64, speech spans in frames, [start, end).
        features: (T, D) float32 or float16, zero outside the mask.
        mask: (T,) bool, where the norm is above the threshold.
        norm: (T,) float32, as compared with the threshold.
        length: T.
        status: `ok`, `silent`, `too_short`, `truncated`, `unreadable`, `missing` or `failed`.
        error: why it is not ok, or None.
        syllable_options: what the checkpoint says of the options of `MincutWrapper`.
    """

    segments: npt.NDArray[np.int64]
    features: npt.NDArray[np.floating]
    mask: npt.NDArray[np.bool_]
    norm: npt.NDArray[np.float32]
    length: int
    status: str
    error: str | None
    syllable_options: Mapping[str, object]


class SyllableFeatures(TypedDict):
    """What `MincutWrapper` gives for one recording of T frames and S syllables.

    Keys:
        segments: (S, 2) float64, seconds.
        features: (T, D), as they came in.
        segment_features: (S, D) float32, of the frames of each syllable.
        length: T.
        status: as it came in.
        error: as it came in.
    """

    segments: npt.NDArray[np.float64]
    features: npt.NDArray[np.floating]
    segment_features: npt.NDArray[np.float32]
    length: int
    status: str
    error: str | None


class SDHuBERTSegmenter:
    """Audio to SD-HuBERT features and the spans where there is speech.

    Arguments that are None are the checkpoint's or, where it says nothing, the preset's.
    """

    def __init__(
        self,
        ckpt_path: str | Path = RELEASED,
        layer: int | None = None,
        normcut_layer: int | None = None,
        normcut_strategy: str | None = None,
        normcut_threshold: float | None = None,
        silence_threshold: float | None = None,
        device: str = "auto",
        *,
        preset: str = "readme",
        dtype: str = "float32",
        batch_seconds: float = 80.0,
        piece_seconds: float | None = None,
        channel: int | None = None,
        resampler: str | None = None,
    ) -> None:
        """Load a checkpoint.

        Args:
            ckpt_path: a path, a URI, `bundled`, `sdhubert_base` or USER/NAME of the hub.
            layer: hidden states that are the features.
            normcut_layer: hidden states whose norm tells speech.
            normcut_strategy: `relative` or `absolute`.
            normcut_threshold: frames of a larger norm are speech.
            silence_threshold: spans of a smaller mean |z-scored sample| are dropped; 0 keeps all.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            preset: `readme`, `paper`, or that of a system (`speech.systems`).
            dtype: precision of the encoder: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where it is fast.
            batch_seconds: padded audio per forward call, seconds.
            piece_seconds: longer audio is decoded and encoded in pieces.
            channel: the channel to use, from 0; None averages all.
            resampler: what makes 16 kHz of other rates: `soxr`, or `torchaudio` on the device.

        Raises:
            UserError: a wrong checkpoint, preset or option.
        """
        if dtype not in DTYPES:
            raise UserError(f"dtype is {dtype!r}; it has to be one of {', '.join(DTYPES)}")
        checkpoint = fetch_checkpoint(str(ckpt_path), preset)
        options = with_values(get_preset(preset), checkpoint.carried(preset))
        given: dict[str, dict[str, object]] = {
            "audio": {"piece_seconds": piece_seconds, "channel": channel, "resampler": resampler},
            "encoder": {"layer": layer, "normcut_layer": normcut_layer},
            "speech": {
                "normcut_strategy": normcut_strategy,
                "normcut_threshold": normcut_threshold,
                "silence_threshold": silence_threshold,
            },
        }
        self.options = with_values(options, _only_given(given))
        self.device = torch_device(device)
        from sdhubert_ray.encoder.resampling import check_resampler

        check_resampler(self.options.audio.resampler)
        from sdhubert_ray.encoder.checkpoint import load_model
        from sdhubert_ray.encoder.model import fastest_dtype

        dtype = fastest_dtype(self.device) if dtype == AUTO else dtype
        self.model = load_model(checkpoint, self.options.encoder, dtype, self.device)
        self.batch_seconds = batch_seconds
        self._dtype = np.float32 if dtype == "float32" else np.float16
        self.syllable_options: Mapping[str, object] = checkpoint.options.get("syllables", {})

    @overload
    def __call__(self, audio: AudioInput, sample_rate: int | None = None) -> SpeechFeatures: ...
    @overload
    def __call__(
        self, audio: "list[AudioInput] | tuple[AudioInput, ...]", sample_rate: int | None = None
    ) -> list[SpeechFeatures]: ...
    def __call__(
        self, audio: "AudioInput | list[AudioInput] | tuple[AudioInput, ...]", sample_rate: int | None = None
    ) -> SpeechFeatures | list[SpeechFeatures]:
        """Encode one recording, or a list of them in common batches.

        Args:
            audio: a path or URI; samples (n,), (channels, n) or, with few channels, (n, channels), as a NumPy array or
                a tensor; a pair of samples and their rate in Hz, as soundfile, librosa and torchaudio give it; a
                mapping of `array` and `sampling_rate`, as `datasets` does; or a list of such. Floating samples are
                taken as they are, int16 and int32 by their full scale. Long files are encoded in pieces
                (`piece_seconds`), samples in one.
            sample_rate: of samples, Hz; needed where they are given alone, refused where all tell theirs.

        Returns:
            a dict for one recording; for a list a list of the same length and order, where what could not be
            read has no frames, its status, and its error (which is logged too).

        Raises:
            AudioError: one recording was given, and it cannot be read.
            FileNotFoundError: one path was given, and there is no such file.
            UserError: samples without a rate, or of a wrong shape.
        """
        one = not isinstance(audio, list | tuple) or is_pair(audio)
        items: Sequence[Any] = cast("Sequence[Any]", [audio] if one else audio)
        for item in items:
            check_input(item)
        if sample_rate is not None and items and all(map(tells_rate, items)):
            raise UserError("sample_rate goes with samples alone; files, pairs and mappings tell their own")
        if not one:
            results = self._encode([self._load(item, sample_rate) for item in items])
            for item, result in zip(items, results, strict=True):
                if result["status"] in FAILED_STATUSES:
                    name = item if isinstance(item, str | Path) else "samples"
                    logger.warning("%s %s", name, result["error"])
            return results
        result = self._encode([self._load(items[0], sample_rate)])[0]
        name = str(audio) if isinstance(audio, str | Path) else "the array of samples"
        if result["status"] == "missing":
            raise FileNotFoundError(f"{name} {result['error']}")
        if result["status"] in FAILED_STATUSES:
            raise AudioError(f"{name} {result['error']}")
        return result

    def _load(self, item: AudioInput, sample_rate: int | None) -> list[Piece]:
        audio, windows = self.options.audio, self.options.windows
        if not isinstance(item, str | Path):
            array, rate = read_samples(item, sample_rate)
            signal, cancelled = to_mono(array, audio.channel)
            samples, left_at = resample_or_leave(signal, rate, audio.resampler)
            if not np.isfinite(samples).all():
                return [Piece("unreadable", "holds NaN or infinite samples", 0.0, 0.0, 0, None)]
            decoded = Audio(samples, 0.0, len(signal) / rate, None, cancelled, left_at)
            return [prepare_piece(decoded, audio, windows)]
        uri = storage.absolute(str(item))
        rows = cut_pieces(list_files([("", uri)]), audio.piece_seconds).to_pylist()
        return [
            load_piece(
                AudioSource(uri),
                Span.of_piece(row["start"], row["end"], row["piece"], row["num_pieces"]),
                audio.channel,
                audio,
                windows,
            )
            for row in rows
        ]

    def _encode(self, recordings: list[list[Piece]]) -> list[SpeechFeatures]:
        decoded = [piece for recording in recordings for piece in recording]
        pieces = settle_pieces(decoded, self.options.audio, self.device)
        samples = [piece.samples for piece in pieces if piece.samples is not None]
        phases = [piece.phase for piece in pieces if piece.samples is not None]
        layers, windows = self.options.encoder, self.options.windows
        from sdhubert_ray.encoder.inference import batch_seconds_on, encode_pieces

        batch_seconds = batch_seconds_on(self.device, self.batch_seconds)
        encoded = iter(encode_pieces(self.model, samples, windows, layers, batch_seconds, phases))
        results = []
        for recording in recordings:
            own, pieces = pieces[: len(recording)], pieces[len(recording) :]
            found = [next(encoded) if piece.samples is not None else None for piece in own]
            results.append(self._join(own, found))
        return results

    def _join(self, pieces: list[Piece], encoded: "list[EncodedPiece | None]") -> SpeechFeatures:
        """Put a recording's pieces onto its frames; there may be a frame between two pieces that neither has."""
        begins = [frame_offset(piece.offset) for piece in pieces]
        length = count_joined([piece.offset for piece in pieces], [piece.num_frames for piece in pieces])
        features = np.zeros((length, self.model.hidden_size), self._dtype)
        norm = np.zeros(length, np.float32)
        mask = np.zeros(length, np.bool_)
        spans = [np.zeros((0, 2), np.int64)]
        for begin, part in zip(begins, encoded, strict=True):
            if part is None:
                continue
            speech: Speech = find_speech(part.raw_norm, part.amplitude, self.options.speech)
            here = slice(begin, begin + len(speech.mask))
            features[here] = np.where(speech.mask[:, None], part.features, 0)
            norm[here], mask[here] = speech.norm, speech.mask
            spans.append(speech.spans + begin)
        status = worst_status([piece.status for piece in pieces])
        return {
            "segments": np.concatenate(spans),
            "features": features,
            "mask": mask,
            "norm": norm,
            "length": length,
            "status": status,
            "error": next(piece.error for piece in pieces if piece.status == status),
            "syllable_options": self.syllable_options,
        }


class MincutWrapper:
    """Speech spans to syllables: min-cut and merging, or another segmenter; pooling.

    Arguments that are None are the checkpoint's or, where it says nothing, the preset's.
    """

    def __init__(
        self,
        syl_dur: float | None = None,
        merge_threshold: float | None = None,
        ft_sr: float = FRAME_RATE,
        min_cut_minimum: int | None = None,
        *,
        preset: str = "readme",
        segmenter: str | None = None,
        segmenter_options: Mapping[str, object] | None = None,
        pooling: str | None = None,
    ) -> None:
        """Choose the rules.

        Args:
            syl_dur: seconds per segment of the initial cut.
            merge_threshold: neighbours of at least this cosine similarity are merged; above 1 merges nothing.
            ft_sr: frames per second of the features, Hz.
            min_cut_minimum: a span of fewer frames is one segment.
            preset: `readme`, `paper`, or that of a system (`speech.systems`).
            segmenter: another one than `min-cut`, which the arguments before are for: `min-cut-banded`, `greedy`,
                `sse-dp`, `norm-peaks` or `uniform`.
            segmenter_options: its own, as in the section of its name in `configs/segment.yaml`.
            pooling: what a syllable's feature is, of the mean over its frames: `mean`, `inner` or `unit`.

        Raises:
            UserError: an unknown preset or segmenter, or a value that is refused.
        """
        if not 0 < ft_sr < np.inf:
            raise UserError(f"ft_sr is {ft_sr}; it has to be a positive frame rate in Hz")
        self.ft_sr = ft_sr
        self._preset = get_preset(preset)
        of_min_cut = {"syl_dur": syl_dur, "merge_threshold": merge_threshold, "min_cut_minimum": min_cut_minimum}
        given: dict[str, object] = {**of_min_cut, "segmenter": segmenter, "pooling": pooling}
        if segmenter_options is not None:
            section = SEGMENTERS.get(segmenter or "")
            if section is None:
                raise UserError("segmenter_options are for a segmenter that is given, and is not min-cut")
            given[section] = segmenter_options
        if segmenter not in (None, MIN_CUT) and any(value is not None for value in of_min_cut.values()):
            raise UserError(f"{', '.join(of_min_cut)} are for min-cut, and the segmenter is {segmenter}")
        self._given = _only_given({"syllables": given})
        with_values(self._preset, self._given)

    @overload
    def __call__(self, features: SpeechFeatures) -> SyllableFeatures: ...
    @overload
    def __call__(self, features: Sequence[SpeechFeatures]) -> list[SyllableFeatures]: ...
    def __call__(
        self, features: SpeechFeatures | Sequence[SpeechFeatures]
    ) -> SyllableFeatures | list[SyllableFeatures]:
        """Cut what `SDHuBERTSegmenter` gave: a dict for a dict, a list for a list, in order."""
        if isinstance(features, Sequence):
            return [self._cut(item) for item in features]
        return self._cut(features)

    def options_with(self, of_checkpoint: Mapping[str, object]) -> SyllableOptions:
        """The rules: the preset's, over these what a checkpoint says of them, and over all what was given.

        Raises:
            UserError: a value of the checkpoint is refused.
        """
        return with_values(with_values(self._preset, {"syllables": of_checkpoint}), self._given).syllables

    def _cut(self, speech: SpeechFeatures) -> SyllableFeatures:
        options = self.options_with(speech.get("syllable_options", {}))
        syllables = find_syllables(speech["features"], speech["norm"], speech["segments"], options, self.ft_sr)
        return {
            "segments": to_seconds(syllables.frames, 0.0, self.ft_sr),
            "features": speech["features"],
            "segment_features": syllables.features,
            "length": speech["length"],
            "status": speech["status"],
            "error": speech["error"],
        }


def _only_given(values: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    return {
        section: {name: value for name, value in options.items() if value is not None}
        for section, options in values.items()
    }
