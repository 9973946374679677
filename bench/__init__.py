"""Benchmarks of VATT in PyTorch: ``python -m bench SUBCOMMAND``."""
