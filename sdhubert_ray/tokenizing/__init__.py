"""Units for the segments of an output that is there: into its table, and as sequences for unit language models."""

from sdhubert_ray.tokenizing.planning import TokenizeJob, prepare_tokenizing
from sdhubert_ray.tokenizing.running import Tokenized, run_tokenizing

__all__ = ["TokenizeJob", "Tokenized", "prepare_tokenizing", "run_tokenizing"]
