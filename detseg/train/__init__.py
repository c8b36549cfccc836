"""Training: settings, data, the loop, checkpoints, and what a run tells meanwhile."""
