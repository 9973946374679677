"""The built-in sample: a few hundred short, narrated .mp4 files with sound, generated from a seed.

``build`` writes them, ``levels`` tells chance and what an oracle reaches; ``python -m vatt.sample`` does both.
"""

from vatt.sample.build import SampleError, build
from vatt.sample.oracle import Level, levels, table

__all__ = ["Level", "SampleError", "build", "levels", "table"]
