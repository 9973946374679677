"""What a model is worth: retrieval, classification, and probes of frozen features."""
