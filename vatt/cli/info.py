"""``vatt info``: what `vatt.analysis.info` prints. ``vatt info DIR``: what a model folder or a run holds."""

from vatt.analysis.info import add_arguments, run

__all__ = ["add_arguments", "run"]
