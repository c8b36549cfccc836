"""The tasks of detseg, one entry each: where what a task adds is found. Each floor looks up its own place only."""

from importlib import import_module
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """Where the parts of a task are, as module:name; nothing of it is imported before it is asked for."""

    models: str  # what `register_model` calls the task
    train: str  # a `detseg.train.task.Task`
    predict: str  # a `detseg.predict.predictor.Predictor`
    page: str  # a `detseg.report.pages.base.RunPage`
    evaluate: str  # a `detseg.cli.evaluate.Evaluator`
    about: str


TASKS = {
    "detector": Entry(
        "detect",
        "detseg.train.tasks.detector:DetectorTask",
        "detseg.predict.detector:Detector",
        "detseg.report.pages.detector:DetectorPage",
        "detseg.cli.evaluate_detections:DETECTIONS",
        "train an object detector",
    ),
    "segmenter": Entry(
        "segment",
        "detseg.train.tasks.segmenter:SegmenterTask",
        "detseg.predict.segmenter:Segmenter",
        "detseg.report.pages.segmenter:SegmenterPage",
        "detseg.cli.evaluate_masks:MASKS",
        "train a semantic segmenter: a class for every pixel",
    ),
    "classifier": Entry(
        "classify",
        "detseg.train.tasks.classifier:ClassifierTask",
        "detseg.predict.classifier:ImageClassifier",
        "detseg.report.pages.classifier:ClassifierPage",
        "detseg.cli.evaluate_classes:CLASSES",
        "train an image classifier: one class per image",
    ),
    "localizer": Entry(
        "localize",
        "detseg.train.tasks.localizer:LocalizerTask",
        "detseg.predict.detector:Detector",
        "detseg.report.pages.localizer:LocalizerPage",
        "detseg.cli.evaluate_detections:DETECTIONS",
        "train a localizer: class and box of the one object per image",
    ),
}


def part(task: str, name: str) -> Any:
    """What a task has in a place: ``part("detector", "page")``."""
    module, _, attribute = getattr(TASKS[task], name).partition(":")
    return getattr(import_module(module), attribute)


def task_of(models: str) -> str:
    """The task that models registered for "detect", "segment", … are trained by; ValueError for another word."""
    for task, entry in TASKS.items():
        if entry.models == models:
            return task
    raise ValueError(f"no task has models of {models!r}; there are {', '.join(e.models for e in TASKS.values())}")
