"""The SD-HuBERT encoder: from samples to frame features.

Rooms: `model` (the network), `convolutions` (two of its, faster), `batches` (windows through it), `blending` (their
states to those of a piece, on a GPU), `inference` (pieces through all of it), `cutting` (many spans at once),
`checkpoint` (weights of official checkpoints, read strictly, never executed), `official` (the rest of such a file),
`hub` (checkpoints as folders), `weights` (checkpoints by name, path or URI). All but the last three import torch, most
of them transformers too, which takes seconds.
"""

from sdhubert_ray.encoder.official import Checkpoint
from sdhubert_ray.encoder.weights import fetch_checkpoint

__all__ = ["Checkpoint", "fetch_checkpoint"]
