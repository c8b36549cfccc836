"""Out of memory: what it says to do."""

from types import SimpleNamespace

import pytest
import torch

from detseg.train.config import TrainDetector
from detseg.train.errors import TrainingError, memory_advice


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_says_what_helps(error):
    process = SimpleNamespace(config=TrainDetector(batch_size=8, accumulate=2, size=320))
    with pytest.raises(TrainingError, match="8 images of 320 px") as found, memory_advice(process):
        raise error
    assert "--batch-size 4 --accumulate 4 " in str(found.value) and "--size 160" in str(found.value)
    process.config = TrainDetector(batch_size=1, size=320)
    with pytest.raises(TrainingError, match="--batch-size 1 --accumulate 1 "), memory_advice(process):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="something else"), memory_advice(SimpleNamespace(config=TrainDetector())):
        raise RuntimeError("something else")
