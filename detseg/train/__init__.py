"""Training: options, tasks, the loop, checkpoints and logs."""
