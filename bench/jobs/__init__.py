"""Whole jobs of the benchmark suite: pretraining, the training command, reading, embedding, the loss's memory.

``python -m bench.jobs`` measures them; `jobs` yields their rows.
"""

from bench.jobs.options import JOBS, JobError, Options
from bench.jobs.run import jobs

__all__ = ["JOBS", "JobError", "Options", "jobs"]
