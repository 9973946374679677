"""Faults that are injected into small runs, what is promised of each, and the table of what came of it."""
