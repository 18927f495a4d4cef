"""The numerics of units: a quantizer gives each vector its unit, `kmeans` makes one."""

from sdhubert_ray.units.quantizer import Quantizer

__all__ = ["Quantizer"]
