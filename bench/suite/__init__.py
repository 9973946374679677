"""The benchmark suite: what is measured (`subjects`), how (`session`), and two commits side by side (`compare`)."""
