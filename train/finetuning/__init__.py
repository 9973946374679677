"""Fine-tuning: what only this job needs."""
