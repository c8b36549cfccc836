"""Trained models at work."""

from pathlib import Path

from detseg.models import load_model
from detseg.predict.classifier import ImageClassifier, classify
from detseg.predict.detector import Detector, SlidingDetector, detect
from detseg.predict.fused import FusedDetector
from detseg.predict.predictor import Predictor
from detseg.predict.segmenter import Segmenter, segment
from detseg.reading import reading
from detseg.results import Classification, Results, Segmentation
from detseg.tasks import part, task_of

__all__ = [
    "Classification",
    "Detector",
    "FusedDetector",
    "ImageClassifier",
    "Predictor",
    "Results",
    "Segmentation",
    "Segmenter",
    "SlidingDetector",
    "classify",
    "detect",
    "load",
    "segment",
]


def load(run: str | Path, *more: str | Path) -> Predictor:
    """The model in a run folder, ready to predict; runs no code from the files.

    Of several runs of detectors, one that fuses what they find: see `FusedDetector`.

    Raises ValueError if there is no model in a folder, it is damaged, or models cannot be fused.
    """
    if more:
        return FusedDetector([load(folder) for folder in (run, *more)])
    model, description = load_model(run)
    with reading(run):  # it computes with the weights
        predictor: Predictor = part(task_of(model.task), "predict")(model, description)
    return predictor
