"""What can stop a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@contextmanager
def memory_advice(process: Any) -> Iterator[None]:
    """Turns "out of memory" inside into a TrainingError that says what to do, by the `config` of the process."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        import torch  # here: errors of other commands need none of it

        if not isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        config = process.config
        half = max(1, config.batch_size // 2)
        steps = config.accumulate * config.batch_size // half
        smaller = max(32, config.size // 2 // 32 * 32)
        raise TrainingError(
            f"out of memory with batches of {config.batch_size} images of {config.size} px. Any of these helps: "
            f"--batch-size {half} --accumulate {steps} (the same steps, a little slower); --size {smaller}; "
            "--precision bf16; a smaller --backbone; --freeze with more stages; several processes, each with a part of "
            f"the batch. `detseg backbones {config.backbone} --size {config.size} --batch-size {half}` lists what a "
            "batch takes"
        ) from error
