"""The SD-HuBERT encoder: from samples to frame features.

Rooms: `model` (the network, and states that do not depend on the batch), `checkpoint` (official checkpoints, read
strictly, never executed), `weights` (checkpoints by name, path or URI).
"""

from sdhubert_ray.encoder.checkpoint import Checkpoint, load_model
from sdhubert_ray.encoder.model import SDHuBERT
from sdhubert_ray.encoder.weights import fetch_checkpoint

__all__ = ["Checkpoint", "SDHuBERT", "fetch_checkpoint", "load_model"]
