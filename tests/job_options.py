"""Every option of a segmentation job with another value than its default, and how it is given."""

from option_trees import refused

from sdhubert_ray.runs.config import load_config


def load(*overrides, path=None, flags=None, carried=None):
    return load_config(path, overrides, flags or {}, carried or {})


def refusal(*overrides, **given):
    return refused(load, *overrides, **given)


def get(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


# Another value of each option: what changes results, and what does not.
RESULT_OPTIONS = {
    "dtype": "bfloat16",
    "rate": 4.5,
    "audio.channel": 1,
    "audio.piece_seconds": 300.0,
    "audio.variance_floor": 0.5,
    "audio.normalisation": "sample",
    "audio.resampler": "torchaudio",
    "windows.window_seconds": 10.0,
    "windows.overlap_seconds": 1.0,
    "windows.pad_samples": 100,
    "encoder.layer": 8,
    "encoder.normcut_layer": 10,
    "speech.normcut_strategy": "absolute",
    "speech.normcut_threshold": 0.3,
    "speech.silence_threshold": 0.5,
    "speech.min_span_frames": 4,
    "speech.max_span_seconds": 20.0,
    "syllables.syl_dur": 0.25,
    "syllables.merge_threshold": 0.75,
    "syllables.min_cut_minimum": 3,
    "syllables.keep_last_frame": False,
    "syllables.drop_frames": 3,
    "syllables.merge_minimum": 4,
    "syllables.max_frames": 50,
    "syllables.pooling": "unit",
    "output.frame_features": "float16",
    "output.segment_features": "none",
}
# Of segmenters other than min-cut; they are taken with theirs only.
SEGMENTER_OPTIONS = {
    "syllables.banded.syl_dur": 0.25,
    "syllables.banded.merge_threshold": 0.95,
    "syllables.banded.min_frames": 2,
    "syllables.banded.max_frames": 50,
    "syllables.greedy.norm_threshold": 1.5,
    "syllables.greedy.merge_threshold": 0.75,
    "syllables.greedy.reset_count": True,
    "syllables.sse_dp.max_error": 0.25,
    "syllables.sse_dp.min_frames": 2,
    "syllables.sse_dp.max_frames": 50,
    "syllables.norm_peaks.window_frames": 5,
    "syllables.norm_peaks.prominence": 0.25,
    "syllables.uniform.seconds": 0.25,
}
LAYOUT_OPTIONS = {
    "preset": "paper",  # its options count, not its name
    "checkpoint": "elsewhere/copy.pt",  # the hash of its content counts
    "device": "cpu",
    "max_failed": 7,
    "foreign_quantizer": True,
    "quantizer": "elsewhere/quantizer",  # likewise
    "audio.schemes": ("file", "https"),
    "output.formats": ("parquet", "textgrid"),
    "output.compression": "gzip",
    "output.rows_per_file": 100,
    "resources.batch_seconds": 40.0,
    "resources.unit_seconds": 60.0,
    "resources.unit_rows": 16,
    "resources.decode.cpus": 2.0,
    "resources.decode.memory_gib": 2.5,
    "resources.decode.workers": 5,
    "resources.encode.cpus": 4.0,
    "resources.encode.gpus": 0.5,
    "resources.encode.memory_gib": 1.5,
    "resources.encode.min_workers": 1,
    "resources.encode.max_workers": 3,
    "resources.encode.initial_workers": 2,
    "resources.cut.cpus": 2.0,
    "resources.cut.memory_gib": 2.5,
    "resources.cut.workers": 5,
}
OPTIONAL = [
    "rate",
    "quantizer",
    "audio.channel",
    "windows.window_seconds",
    "speech.silence_threshold",
    "syllables.merge_threshold",
    "syllables.max_frames",
    "resources.unit_seconds",
    "resources.decode.workers",
    "resources.encode.min_workers",
    "resources.encode.max_workers",
    "resources.encode.initial_workers",
    "resources.cut.workers",
]


def as_text(value):
    return f"[{','.join(value)}]" if isinstance(value, tuple) else str(value).lower() if value is False else str(value)
