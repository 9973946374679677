"""Whole jobs, such as pretraining, reading and embedding: ``python -m bench jobs``."""
