"""SD-HuBERT on Ray: speech audio to syllable segments, features and units."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdhubert_ray.api import MincutWrapper, SDHuBERTSegmenter
    from sdhubert_ray.output import read_segments
    from sdhubert_ray.runs.segmenting import segment_corpus
    from sdhubert_ray.streaming.segmenter import StreamingSegmenter
    from sdhubert_ray.units import Quantizer
    from sdhubert_ray.viewing.plot import plot_segmentation

    __version__: str

__all__ = [
    "MincutWrapper",
    "Quantizer",
    "SDHuBERTSegmenter",
    "StreamingSegmenter",
    "__version__",
    "plot_segmentation",
    "read_segments",
    "segment_corpus",
]

_HOMES = {
    "MincutWrapper": "sdhubert_ray.api",
    "Quantizer": "sdhubert_ray.units.quantizer",
    "SDHuBERTSegmenter": "sdhubert_ray.api",
    "StreamingSegmenter": "sdhubert_ray.streaming.segmenter",
    "plot_segmentation": "sdhubert_ray.viewing.plot",
    "read_segments": "sdhubert_ray.output",
    "segment_corpus": "sdhubert_ray.runs.segmenting",
}


def __getattr__(name: str) -> object:
    """Import what is asked for only when it is: torch alone takes seconds, and `sdhubert --help` needs none."""
    if name == "__version__":
        return import_module("importlib.metadata").version("sdhubert_ray")
    if name not in _HOMES:
        raise AttributeError(f"module 'sdhubert_ray' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
