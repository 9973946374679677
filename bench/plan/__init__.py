"""Scaling on paper: memory, step time and communication of a pretraining run, predicted before it is started."""
