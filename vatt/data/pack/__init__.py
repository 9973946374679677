"""`vatt data pack`: media files to shards that decode fast."""
