"""What each task adds to a training run: its data, its model and how it is evaluated."""
