"""The SD-HuBERT encoder: from samples to frame features.

Rooms: `model` (the network), `inference` (windows through it), `checkpoint` (weights of official checkpoints, read
strictly, never executed), `official` (the rest of such a file), `weights` (checkpoints by name, path or URI). The
first three import torch and transformers, which takes seconds; the others do not.
"""

from sdhubert_ray.encoder.official import Checkpoint
from sdhubert_ray.encoder.weights import fetch_checkpoint

__all__ = ["Checkpoint", "fetch_checkpoint"]
