"""Pretraining: what only this job needs."""
