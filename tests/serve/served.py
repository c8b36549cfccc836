"""Models that find what they are told, and images as clients send them."""

import io
import threading
from contextlib import contextmanager

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from detseg.cli.serve import listen, server
from detseg.results import Classification, Results, Segmentation
from detseg.serve.app import create_app

NAMES = ["rose", "<script>alert(1)</script>", 'tulip, "red"']
CATEGORIES = [(3, NAMES[0]), (5, NAMES[1]), (9, NAMES[2])]


class Told:
    """A model of some task: three objects, three areas or three classes, wherever it looks."""

    size = 64

    def __init__(self, task="detect", masks=False, channels=3):
        self.task, self.finds_masks, self.channels = task, masks, channels
        self.names, self.shapes, self.options = NAMES, [], []

    def stream(self, images, batch_size=8, **options):
        self.shapes.append(images.shape)
        self.options.append({"batch_size": batch_size, **options})
        yield self.look(images, **options)

    def look(self, image, score_threshold=0.3, run_lengths=False):
        height, width = image.shape[:2]
        if self.task == "classify":
            scores = np.array([0.7, 0.2, 0.1], np.float32)
            return Classification(np.array([1, 0, 2]), scores, image, CATEGORIES)
        if self.task == "segment":
            mask = np.zeros((height, width), np.uint8)
            mask[:, width // 4 :] = 1
            mask[: height // 2, width // 2 :] = 2
            return Segmentation(mask, np.full(mask.shape, 0.75, np.float32), image, CATEGORIES)
        boxes = np.array([[0.1, 0.2, 0.5, 0.6], [0.4, 0.1, 0.9, 0.5], [0.2, 0.6, 0.6, 0.9]], np.float32)
        scores = np.array([0.9, 0.6, 0.1], np.float32)
        boxes = (boxes * np.array([width, height] * 2)).astype(np.float32)
        found = {"boxes": boxes, "scores": scores, "labels": np.array([0, 1, 0])}
        if self.finds_masks:
            masks = np.zeros((3, height, width), bool)
            for mask, (x1, y1, x2, y2) in zip(masks, found["boxes"].round().astype(int), strict=True):
                mask[y1:y2, x1:x2] = True
            found["masks"] = masks
        return Results(found, image, CATEGORIES).select(scores >= score_threshold)


class Blocked(Told):
    """A model that looks until it is let go."""

    def __init__(self):
        super().__init__()
        self.looking, self.go = threading.Semaphore(0), threading.Event()

    def stream(self, images, batch_size=8, **options):
        self.looking.release()
        assert self.go.wait(10)
        yield from super().stream(images, batch_size, **options)


def image_file(kind="PNG", size=(80, 60), mode="RGB", **options):
    """The bytes of an image of noise."""
    width, height = size
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, bands), np.uint8)
    image = Image.fromarray(values[..., 0] if bands == 1 else values, mode) if mode != "1" else Image.new("1", size)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def client_of(model=None, **options):
    """A client of a model's application, as a browser on this machine is one."""
    app = create_app(Told() if model is None else model, **options)
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


@contextmanager
def running(app):
    """The address (host, port) of an application that a real server runs."""
    listening = listen("127.0.0.1", 0)
    serving = server(app)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        serving.should_exit = True
        thread.join()
        listening.close()
