"""Weights on disk: model folders, restoring a backbone, and the official TensorFlow checkpoints."""
