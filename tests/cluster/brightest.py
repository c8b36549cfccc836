"""A model for tests of what is around models: the box of the bright pixels of an image, and tar archives of images."""

import io
import os
import signal
import tarfile

import cv2
import numpy as np

from detseg.cluster.worker import Job
from detseg.results import Results

CATEGORIES = [(7, "red"), (3, "other")]


class Brightest:
    """Finds one object, the bright pixels, in images that have some."""

    task, channels, max_detections, categories = "detect", 3, 1, CATEGORIES

    def stream(self, pixels, *, score_threshold=0.3):
        for image in pixels:
            rows, columns = np.nonzero(image.max(2) > 200)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else []
            label = int(len(rows) > 0 and image[rows[0], columns[0], 0] < 200)
            found = {
                "boxes": np.array(box, np.float32).reshape(-1, 4),
                "scores": np.full(len(box) // 4, 0.9, np.float32),
                "labels": np.full(len(box) // 4, label, np.int64),
            }
            yield Results(found, image, CATEGORIES)


def load(path, threads):
    assert (path / "model.json").read_bytes() == b"{}"
    return Brightest()


class Deadly(Brightest):
    """Kills its process at the sight of an image that is all black."""

    def stream(self, pixels, **options):
        if not all(image.any() for image in pixels):
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().stream(pixels, **options)


def load_deadly(path, threads):
    return Deadly()


FILES = {"model.json": b"{}"}


def job(folder, output, ending="jsonl", load=load, **options):
    return Job("run", load, str(folder), str(output), ending, **options)


def image(number, side=16):
    """The content of a PNG file with a red or blue square whose place is that of its number."""
    pixels = np.full((side, side, 3), 50, np.uint8)
    y, x = divmod(number % ((side - 4) ** 2), side - 4)
    pixels[y : y + 3, x : x + 3] = (0, 0, 255) if number % 2 else (255, 0, 0)
    return cv2.imencode(".png", pixels)[1].tobytes()


def expected(number, side=16):
    y, x = divmod(number % ((side - 4) ** 2), side - 4)
    return [[float(x), float(y), float(x + 3), float(y + 3)]], [0 if number % 2 else 1]


def write_tar(path, files):
    """An archive of files by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
