"""Benchmarks of VATT in PyTorch: ``python -m bench SUBCOMMAND``."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the clone
