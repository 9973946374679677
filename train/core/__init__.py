"""What every training job shares, from ranks to checkpoints."""
