"""What can stop a run."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""
