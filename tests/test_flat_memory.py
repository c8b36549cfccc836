"""Memory that stays flat over many images: the slope over the second half, not a limit."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detseg.cli import main
from detseg.predict.detector import Detector
from tests.small_set import write_small_set

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


def resident(process: int | str = "self") -> int:
    """Bytes that a process holds in memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident_with_children() -> int:
    """The same of this process and those that it started."""
    total = resident()
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            with suppress(OSError):  # it has ended meanwhile
                total += resident(child)
    return total


def slope_of(seen: Sequence[tuple[float, int]]) -> float:
    """Bytes more for each step over the second half of (step, bytes)."""
    half = np.array(seen[len(seen) // 2 :], float)
    slope = float(np.polyfit(half[:, 0], half[:, 1], 1)[0])
    print(f"{slope:.0f} bytes a step, {half[-1, 1] / 2**20:.0f} MB at the end")
    return slope


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from /proc"),
]


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
    assert slope_of(seen) < 100, "bytes an image"  # a small array would be some hundred


def test_the_commands_keep_little_more_than_their_results(tmp_path, monkeypatch) -> None:
    """Detections of all images are written together in the end; besides nothing grows."""
    count, folder = 20_000, tmp_path / "images"
    folder.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (24 + number, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    for i in range(8, count):
        os.link(folder / f"{i % 8}.png", folder / f"{i}.png")
    seen: list[tuple[int, int]] = []
    looked = 0

    class Watched(OneBox):
        def forward(self, images):
            nonlocal looked
            if looked // 500 < (looked := looked + len(images)) // 500:
                seen.append((looked, resident()))
            return super().forward(images)

    model = Detector(Watched(), {"categories": [{"id": 1, "name": "a"}], "size": 32})
    monkeypatch.setattr("detseg.cli.predict._model", lambda *_: model)
    assert main(["predict", "run", str(folder), "--output", str(tmp_path / "found")]) == 0
    assert slope_of(seen) < 3000, "bytes an image"  # a detection takes a thousand

    found = json.loads((tmp_path / "found/detections.json").read_text())
    assert len(found) == count
    keys = ("image_id", "category_id", "bbox")
    objects = [{"id": i, "iscrowd": 0, "area": 64} | {key: row[key] for key in keys} for i, row in enumerate(found, 1)]
    images = [{"id": row["image_id"], "file_name": row["file_name"], "width": 32, "height": 24} for row in found]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    words = ["evaluate", str(tmp_path / "found/detections.json"), "--ground-truth", str(tmp_path / "truth.json")]
    seen = []
    for time in range(12):
        assert main([*words, "--resamples", "0", "--json"]) == 0
        seen.append((time, resident()))
    assert slope_of(seen) < 500_000, "bytes an evaluation"  # its detections are some megabytes


def test_many_epochs_keep_nothing(tmp_path) -> None:
    """With two workers, whose memory counts too."""
    write_small_set(tmp_path / "set", width=64, height=64)
    run, held, ended = tmp_path / "run", [], Event()

    def watch() -> None:
        """From the first of ten validations to the ninth: the workers end before the last."""
        while not ended.wait(0.1):
            with suppress(OSError):
                if len((run / "metrics.csv").read_text().splitlines()) < 10:
                    held.append(resident_with_children())

    thread = Thread(target=watch)
    thread.start()
    words = ["--size", "64", "--backbone", "test_efficientnet", "--weights", "none", "--batch-size", "4"]
    words += ["--epochs", "200", "--workers", "2", "--precision", "fp32", "--no-multi-scale", "--output", str(run)]
    try:
        assert main(["train", "detector", "--data", str(tmp_path / "set"), *words]) == 0
    finally:
        ended.set()
        thread.join()
    assert len(held) > 20
    assert slope_of([(160 * i / len(held), memory) for i, memory in enumerate(held)]) < 100_000, "bytes an epoch"
