"""Memory that stays flat over many images: the slope over the second half, not a limit."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detseg.predict.detector import Detector

IMAGES = 4_000


class OneBox(nn.Module):
    """A detector that costs nothing and finds the same in each image."""

    max_detections = 100

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        found = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "scores": torch.ones(1), "labels": torch.zeros(1).long()}
        return [found for _ in images]


def resident() -> int:
    """Bytes that this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc")
def test_predicting_many_images_keeps_nothing(tmp_path) -> None:
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (24 + number, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for i in range(8, IMAGES):
        os.link(paths[i % 8], path := tmp_path / f"{i}.png")
        paths.append(path)
    model = Detector(OneBox(), {"categories": [{"id": 1, "name": "a"}], "size": 32})
    seen = []
    for count, found in enumerate(model.stream(iter(paths), batch_size=8)):
        assert len(found) == 1
        if count % 500 == 0:
            seen.append((count, resident()))
    half = np.array(seen[len(seen) // 2 :], float)
    slope = np.polyfit(half[:, 0], half[:, 1], 1)[0]
    assert slope < 100, f"{slope:.0f} bytes an image are kept"  # a small array would be some hundred
