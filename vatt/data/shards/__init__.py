"""Shards: packed copies of a data set, in tar files that decode fast."""
