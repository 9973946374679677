"""Benchmarks: what the project measures about itself. Run from the repository root: ``python -m bench.<name>``."""
