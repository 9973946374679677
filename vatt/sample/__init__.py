"""The built-in sample: a few hundred short, narrated .mp4 files with sound, generated from a seed.

``build`` writes them, `build_pictures` a picture of each, and ``levels`` tells chance and what an oracle reaches;
the command ``vatt sample`` does the first and the last.
"""

from vatt.sample.encode import EncoderError
from vatt.sample.words import Level, levels, table
from vatt.sample.writing import SampleError, build, build_pictures

__all__ = ["EncoderError", "Level", "SampleError", "build", "build_pictures", "levels", "table"]
