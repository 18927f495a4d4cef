"""Encoders: from samples to frame features.

Rooms: `protocol` (what every encoder is), `model` (networks of transformers, SD-HuBERT's among them), `convolutions`
(two of theirs, faster), `wavlm` (its layers), `data2vec2` (a network that transformers has not), `batches` (windows
through it), `blending` (their states to those of a piece, on a GPU), `inference` (pieces through all of it), `cutting`
(many spans at once), `checkpoint` (weights, read strictly, never executed), `layouts` (files of other systems),
`official` (ours, but for the weights), `hub` (checkpoints as folders), `weights` (checkpoints by name, path or URI).
The last four import no torch; the others do, and most of them transformers too, which takes seconds.
"""

from sdhubert_ray.encoder.official import Checkpoint
from sdhubert_ray.encoder.weights import fetch_checkpoint

__all__ = ["Checkpoint", "fetch_checkpoint"]
